-- A HASH with a field for everything.
function layout.any(ids) return redis.call('EXISTS', unpack(keys_of(ids))) > 0 end

function layout.create(ids, tasks)
  for n, id in ipairs(ids) do
    redis.call('HSET', key(id), 'state', 'q', 'flags', 0, 'priority', 2, 'fence', 0, 'settled', 0, 'holder', 0,
      'attempts', 0, 'failures', 0, 'suspicion', 0, 'crashes', 0, 'losses', 0, 'enqueued_at', now,
      'due', tasks[n].due, 'started_at', 0, 'ended_at', 0, 'nonce', tasks[n].nonce,
      'user', user, 'queue', queue, 'spec', tasks[n].spec)
  end
end

function layout.take(ids, holder)
  local found = {}
  for n, id in ipairs(ids) do
    found[n] = redis.call('HMGET', key(id), 'state', 'fence', 'attempts', 'user', 'queue', 'spec')
    if found[n][1] ~= 'q' then error({ err = 'NOTQUEUED task' }) end
  end
  for n, id in ipairs(ids) do
    redis.call('HSET', key(id), 'state', 'r', 'fence', found[n][2] + 1, 'holder', holder, 'started_at', now,
      'attempts', found[n][3] + 1)
  end
  return found
end

function layout.settle(ids, fences)
  local open = {}
  for n, id in ipairs(ids) do
    local state, fence, last = unpack(redis.call('HMGET', key(id), 'state', 'fence', 'settled'))
    if tonumber(last) ~= fences[n] then
      if state ~= 'r' or tonumber(fence) ~= fences[n] then error({ err = 'STALE fence' }) end
      open[#open + 1] = n
    end
  end
  for _, n in ipairs(open) do
    redis.call('HSET', key(ids[n]), 'state', 'f', 'settled', fences[n], 'ended_at', now)
  end
  return #open
end
