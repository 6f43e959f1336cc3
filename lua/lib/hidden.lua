-- Beside each queue stands a hidden one, of the same domain, for tasks that were twice in a process when it died: a
-- worker with one slot runs them one by one, so each answers for itself (DESIGN section 8).
local hidden = { MARK = '!', FLAG = 8, SINCE_VERSION = 2 }

function hidden.of(queue) return queue .. hidden.MARK end

-- The queue that a hidden one stands beside; any other is its own.
function hidden.base(queue)
  if string.sub(queue, -1) == hidden.MARK then return string.sub(queue, 1, -2) end
  return queue
end

-- Let a task wait in the hidden queue, or in its own again.
function hidden.set(t, is_hidden)
  local base = hidden.base(t.queue)
  t.flags = bit.band(t.flags, bit.bnot(hidden.FLAG)) + (is_hidden and hidden.FLAG or 0)
  t.queue = is_hidden and hidden.of(base) or base
end
