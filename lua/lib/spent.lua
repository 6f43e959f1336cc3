-- Nonces of calls whose effect on a task was overtaken by a later call (a replacement, a retry). The record keeps the
-- last nonce only; a late copy of an earlier call, which may still arrive, is known by these.
--#include lib/key
local spent = { MOST = 64, KEPT_FOR_MS = 600000 }

function spent.knows(id, nonce)
  local nonces = redis.call('GET', key.of('spent', id)) or ''
  for at = 1, #nonces, 8 do
    if string.sub(nonces, at, at + 7) == nonce then return true end
  end
  return false
end

function spent.add(id, nonce)
  local name = key.of('spent', id)
  redis.call('SET', name, string.sub((redis.call('GET', name) or '') .. nonce, -8 * spent.MOST), 'PX', spent.KEPT_FOR_MS)
end
