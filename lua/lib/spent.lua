-- Nonces of calls whose effect on a task was overtaken by a later call (a replacement, a retry). The record keeps the
-- last nonce only; a late copy of an earlier call, which may still arrive, is known by these. The nonce of a replacement
-- that was refused stands here with its bits turned over: a late copy must not do what its caller was told it did not.
--#include lib/key
local spent = { MOST = 64, KEPT_FOR_MS = 600000 }

function spent.knows(id, nonce)
  local nonces = redis.call('GET', key.of('spent', id)) or ''
  for at = 1, #nonces, 8 do
    if string.sub(nonces, at, at + 7) == nonce then return true end
  end
  return false
end

local function turned(nonce)
  return (string.gsub(nonce, '.', function(byte) return string.char(255 - string.byte(byte)) end))
end

function spent.was_refused(id, nonce) return spent.knows(id, turned(nonce)) end

function spent.refuse(id, nonce)
  if not spent.was_refused(id, nonce) then spent.add(id, turned(nonce)) end
end

function spent.add(id, nonce)
  local name = key.of('spent', id)
  redis.call('SET', name, string.sub((redis.call('GET', name) or '') .. nonce, -8 * spent.MOST), 'PX', spent.KEPT_FOR_MS)
end
