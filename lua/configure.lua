--[[
Apply what a daemon's configuration says about a namespace: head starts, lead, default limits, limits of users.

KEYS
  1  meta
ARGV
  1  digest   of the configuration: the same again changes nothing
  2  base     the digest that it replaces, '' for none: a late copy of an older call changes nothing
  3  count    how many pairs of field and value of `meta` follow
  then the pairs, then pairs of user and JSON limits ({"weight": {"value": 3, "origin": "yaml"}})
Returns: the digest that is in force afterwards
Errors: SCHEMA
Cost: O(users in the configuration)
]]
--#include lib/key
--#include lib/meta
local digest, base, pairs_of_meta = ARGV[1], ARGV[2], tonumber(ARGV[3])

local refusal = meta.refusal()
if refusal then return refusal end
local in_force = redis.call('HGET', key.of('meta'), 'digest') or ''
if in_force == digest or in_force ~= base then return in_force end

-- Limits that an operator set stay; those that YAML no longer names go.
local function merged(user, yaml)
  local all = yaml
  local readable, old = pcall(cjson.decode, redis.call('HGET', key.of('limits'), user) or '{}')
  for name, entry in pairs(readable and type(old) == 'table' and old or {}) do
    if type(entry) == 'table' and entry.origin == 'ctl' then all[name] = entry end
  end
  return all
end

local named, at = {}, 4 + 2 * pairs_of_meta
for i = at, #ARGV, 2 do named[ARGV[i]] = cjson.decode(ARGV[i + 1]) end

key.first_write()
meta.create()
redis.call('HSET', key.of('meta'), 'digest', digest)
for i = 4, at - 1, 2 do redis.call('HSET', key.of('meta'), ARGV[i], ARGV[i + 1]) end
for _, user in ipairs(redis.call('HKEYS', key.of('limits'))) do named[user] = named[user] or {} end
for user, yaml in pairs(named) do
  local limits = merged(user, yaml)
  if next(limits) then
    redis.call('HSET', key.of('limits'), user, cjson.encode(limits))
  else
    redis.call('HDEL', key.of('limits'), user)
  end
end
return digest
