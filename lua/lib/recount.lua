-- Running counts, made right after a record was damaged while its task ran: whose task it was is not sure then.
--#include lib/key
--#include lib/state
--#include lib/record
--#include lib/account
local recount = { AT_MOST = 2000 }

local function count(counts, user, domain)
  local c = counts[user] or { all = 0, by_domain = {} }
  c.all, c.by_domain[domain] = c.all + 1, (c.by_domain[domain] or 0) + 1
  counts[user] = c
end

-- STARTED tasks by user; nil where they are too many for one call, or one is of a newer version. A record that cannot
-- be read is counted for whom it names: its end will be taken off there.
local function started()
  local counts, looks = {}, 0
  for _, worker in ipairs(redis.call('ZRANGE', key.of('workers'), 0, -1)) do
    for _, id in ipairs(redis.call('ZRANGE', key.of('claims', worker), 0, recount.AT_MOST)) do
      local t = record.load(id)
      looks = looks + 1
      if looks > recount.AT_MOST or t and t.newer then return nil end
      if t and t.user ~= '' and (t.corrupt or t.state == state.STARTED) then
        count(counts, t.user, account.domain_of(t.queue))
      end
    end
  end
  return counts
end

local function correct(user, c, stored)
  account.deltas[user] = c.all - stored
  for _, domain in ipairs(redis.call('HKEYS', key.of('domains'))) do
    if redis.call('HEXISTS', key.of('account', domain), user) == 1 then
      local a, running = account.of(domain, user), c.by_domain[domain] or 0
      a.domain.open = math.max(0, a.domain.open + running - a.running)
      a.running, a.may_unpark = running, a.limits.is_set
    end
  end
end

-- Make the counts right, before anything else of a script changes them. What is too much for one call is left to fsck.
function recount.run()
  redis.call('HDEL', key.of('meta'), 'recount')
  local counts, stored = started(), redis.call('HGETALL', key.of('running'))
  if not counts then return end
  local of = {}
  for i = 1, #stored, 2 do
    of[stored[i]] = tonumber(stored[i + 1])
    counts[stored[i]] = counts[stored[i]] or { all = 0, by_domain = {} }
  end
  for user, c in pairs(counts) do
    if c.all ~= (of[user] or 0) then correct(user, c, of[user] or 0) end
  end
end
