-- queued -> started. ARGV[3]: holder, ARGV[4]: how many. Returns the ids and what a worker needs of each record.
local popped, ids = redis.call('ZPOPMIN', waiting, ARGV[4]), {}
for i = 1, #popped, 2 do ids[#ids + 1] = popped[i] end
return { ids, layout.take(ids, tonumber(ARGV[3])) }
