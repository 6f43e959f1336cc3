-- Tasks that one call names.
--#include lib/record
local batch = {}

-- All of them by id, before anything is written; a refusal if the record of one is of a newer version.
function batch.load(ids)
  local tasks = {}
  for _, id in ipairs(ids) do
    local t = record.load(id)
    if t and t.newer then return nil, record.refusal(t) end
    tasks[id] = t
  end
  return tasks
end
