-- new -> queued. ARGV from 3: id, due, nonce, spec of each task. Returns how many were pushed.
local ids, tasks, scores = {}, {}, {}
for i = 3, #ARGV, 4 do
  local n = #ids + 1
  ids[n], tasks[n] = ARGV[i], { due = tonumber(ARGV[i + 1]), nonce = ARGV[i + 2], spec = ARGV[i + 3] }
  scores[2 * n - 1], scores[2 * n] = ARGV[i + 1], ARGV[i]
end
if layout.any(ids) then return redis.error_reply('DUPLICATE task') end
layout.create(ids, tasks)
redis.call('ZADD', waiting, unpack(scores))
return #ids
