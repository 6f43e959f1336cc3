--[[
Put parked users back where they have work, some a call: their limits may have changed.

KEYS
  1  meta
ARGV
  1  cursor  0 at first, then what the last call returned
  2  most    about how many users to look at in this call
Returns: the cursor for the next call, 0 when all were looked at
Cost: O(log n) a user
]]
--#include lib/key
--#include lib/account
--#include lib/ready
local cursor, most = ARGV[1], ARGV[2]

key.first_write()
local scanned = redis.call('SSCAN', key.of('parked'), cursor, 'COUNT', most)
for _, user in ipairs(scanned[2]) do ready.unpark(user) end
account.flush()
return scanned[1]
