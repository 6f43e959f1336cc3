-- How an attempt ends that did not return: as its holder says, by `fail` or by its will.
--#include lib/key
--#include lib/clock
--#include lib/record
--#include lib/place
--#include lib/attempt
local ending = {}

local function move(t, what, number)
  if bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then
    place.cancel(t)
    return 'cancelled'
  end
  if what == 'fail' then
    t.failures = math.min(65535, t.failures + 1)
    place.fail(t, number)
    return 'failed'
  end
  if what == 'hand_back' then
    t.attempts = math.max(0, t.attempts - 1)
  else
    t.failures = math.min(65535, t.failures + 1)
    redis.call('HINCRBY', key.of('counters'), 'retried', 1)
  end
  t.holder = 0
  place.schedule(t, clock.now + number)
  return 'scheduled'
end

-- What: retry, fail or hand_back; number: the delay, or the reason; error: JSON. Returns the status for `fail`.
function ending.apply(t, what, number, error)
  attempt.settle(t)
  local status = move(t, what, number)
  record.save_error(t, error)
  return status
end
