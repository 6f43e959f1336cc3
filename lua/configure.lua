--[[
Apply what a daemon's configuration says about a namespace: head starts, lead, default limits, limits of users.

KEYS
  1  meta
ARGV
  1  digest   of the configuration: the same again changes nothing
  2  count    how many pairs of field and value of `meta` follow
  then the pairs, then pairs of user and JSON limits ({"weight": {"value": 3, "origin": "yaml"}})
Returns: 1 if anything was applied, how many parked users were put back
Errors: SCHEMA
Cost: O(users in the configuration + parked users)
]]
--#include lib/key
--#include lib/meta
--#include lib/account
--#include lib/ready
local digest, pairs_of_meta = ARGV[1], tonumber(ARGV[2])

local refusal = meta.refusal()
if refusal then return refusal end
if redis.call('HGET', key.of('meta'), 'digest') == digest then return { 0, 0 } end

-- Limits of users that another origin than YAML set stay; those that YAML no longer names go.
local function merged(user, yaml)
  local all = yaml
  for name, entry in pairs(cjson.decode(redis.call('HGET', key.of('limits'), user) or '{}')) do
    if entry.origin ~= 'yaml' then all[name] = entry end
  end
  return all
end

local named, at = {}, 3 + 2 * pairs_of_meta
for i = at, #ARGV, 2 do named[ARGV[i]] = cjson.decode(ARGV[i + 1]) end

key.first_write()
meta.create()
redis.call('HSET', key.of('meta'), 'digest', digest)
for i = 3, at - 1, 2 do redis.call('HSET', key.of('meta'), ARGV[i], ARGV[i + 1]) end
for _, user in ipairs(redis.call('HKEYS', key.of('limits'))) do named[user] = named[user] or {} end
for user, yaml in pairs(named) do
  local limits = merged(user, yaml)
  if next(limits) then
    redis.call('HSET', key.of('limits'), user, cjson.encode(limits))
  else
    redis.call('HDEL', key.of('limits'), user)
  end
end
meta.loaded = false
local parked = redis.call('SMEMBERS', key.of('parked'))
for _, user in ipairs(parked) do ready.unpark(user) end
account.flush()
return { 1, #parked }
