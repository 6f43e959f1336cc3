-- SCHEDULED tasks whose time has come.
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/place
local promote = { LOOK_AGAIN_AFTER = 1000000 }

local function due(id, t)
  redis.call('ZREM', key.of('scheduled'), id)
  if t and t.corrupt then
    place.corrupt(id, t.user, t.queue)
  elseif t and t.state == state.SCHEDULED then
    place.queue(t)
    record.save(t)
  end
end

-- Promote at most `most`. Returns how many, and when to look again: when the next one is due (microseconds; nil when
-- none waits). Records of a newer version are passed over, at most `most`, and stay where newer sides meet them.
function promote.due(most)
  local promoted, passed = 0, 0
  while promoted < most and passed < most do
    local head = redis.call('ZRANGE', key.of('scheduled'), passed, passed, 'WITHSCORES')
    if not head[1] then return promoted, nil end
    if tonumber(head[2]) > clock.now then return promoted, tonumber(head[2]) end
    local t = record.load(head[1])
    if t and t.newer then
      passed = passed + 1
    else
      due(head[1], t)
      promoted = promoted + 1
    end
  end
  return promoted, promoted > 0 and clock.now or clock.now + promote.LOOK_AGAIN_AFTER
end
