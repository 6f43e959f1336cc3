-- SCHEDULED tasks whose time has come.
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/place
local promote = {}

-- Promote at most `most`. Returns how many, and when the next one is due (microseconds; nil when none waits).
function promote.due(most)
  local promoted = 0
  while promoted < most do
    local head = redis.call('ZRANGE', key.of('scheduled'), 0, 0, 'WITHSCORES')
    if not head[1] then return promoted, nil end
    if tonumber(head[2]) > clock.now then return promoted, tonumber(head[2]) end
    local id = head[1]
    redis.call('ZREM', key.of('scheduled'), id)
    local t = record.load(id)
    if t and t.corrupt then
      place.corrupt(id, t.user, t.queue)
    elseif t and t.state == state.SCHEDULED then
      place.queue(t)
      record.save(t)
    end
    promoted = promoted + 1
  end
  return promoted, clock.now
end
