--[[
Start up to n tasks on a worker, from the users whose turn it is (DESIGN section 7).

A task whose record is of a newer version stays where it waits, for a newer fairqued, and those behind it are served.
Where nothing else can be started the call is refused: it has started nothing, its number is not used up, and the bell
is rung for a worker that can.

KEYS
  1  meta
ARGV
  1  worker
  2  claim   number of this call: the last one again is answered again, a lower one is refused
  3  most    how many tasks
  then the queues in order of preference
Moves: queued -> started, queued -> failed, scheduled -> queued
Returns: microseconds until the next SCHEDULED task is due (-1: none), then id and record of each task
Errors: WORKERGONE, LATECLAIM, SCHEMA
Cost: O(log n) a task, and a bounded number of looks at users that are put back in order or parked
]]
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/meta
--#include lib/limit
--#include lib/account
--#include lib/bell
--#include lib/ready
--#include lib/place
--#include lib/lease
--#include lib/promote
local worker, claim, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local queues = { unpack(ARGV, 4) }
local PROMOTE_AT_MOST, LOOK_AT_MOST = 16, 100 + most

local w, refusal = lease.of(worker)
if refusal then return refusal end
if claim < w.claim then return { err = 'LATECLAIM claim ' .. claim .. ' came after claim ' .. w.claim } end
if claim == w.claim then
  local answer = { -1 }
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key.of('claims', worker), claim, claim)) do
    local t = record.load_whole(id)
    if t and not t.corrupt and t.state == state.STARTED and t.holder == w.handle then
      answer[#answer + 1], answer[#answer + 2] = id, t.raw
    end
  end
  return answer
end

key.first_write()
local answer, claimed, taken, passed = {}, {}, {}, {}
local count, looks = 0, 0

local function first_in(name, a, queue) return redis.call('ZPOPMIN', key.of(name, queue, a.user)) end

-- Take the user's next task out of a queue: its id and its score, and whether it was CRITICAL. An account that was
-- damaged may not know of CRITICAL ones.
local function take_next(a, queue)
  local first = a.critical > 0 and first_in('critical', a, queue)
  if first and first[1] then return first, 1 end
  first = first_in('waiting', a, queue)
  if first[1] then return first, 0 end
  return first_in('critical', a, queue), 1
end

-- The task to start; nil if it does not wait here. A record that names another user or queue is damaged.
local function load(a, queue, id)
  local t = record.load_whole(id)
  if not t or t.newer then return t end
  if not t.corrupt and t.state ~= state.QUEUED then return nil end
  if not t.corrupt and t.user == a.user and t.queue == queue then return t end
  place.corrupt(id, a.user, queue)
end

local function start(a, queue, rank, id, score, critical)
  local t = load(a, queue, id)
  if t and t.newer then
    local set = critical == 1 and 'critical' or 'waiting'
    passed[#passed + 1] = { t = t, a = a, queue = queue, set = set, score = score }
    looks = looks + 1
    return
  end
  taken[queue] = (taken[queue] or 0) + 1
  if not t then
    account.leave(a, critical)
    looks = looks + 1
    return
  end
  account.start(a, rank, critical)
  state.set(t, state.STARTED)
  t.fence, t.attempts, t.holder, t.started_at = t.fence + 1, math.min(65535, t.attempts + 1), w.handle, clock.now
  local header = record.save(t)
  count = count + 1
  claimed[2 * count - 1], claimed[2 * count] = claim, id
  answer[2 * count - 1], answer[2 * count] = id, header .. string.sub(t.raw, record.HEADER + 1)
end

local function may_run(a)
  return not a.limits.is_set or limit.allows(a.limits, account.running_everywhere(a))
end

local function has_critical(a, queue)
  return a.critical > 0 and redis.call('EXISTS', key.of('critical', queue, a.user)) == 1
end

-- Serve one user until its rank passes the next user's, then put it back where it now stands.
local function serve(a, queue, rank, next_rank)
  while count < most and looks < LOOK_AT_MOST and rank <= next_rank and may_run(a) do
    local first, critical = take_next(a, queue)
    if not first[1] then break end
    start(a, queue, rank, first[1], first[2], critical)
    rank = account.rank(a, has_critical(a, queue))
  end
  if redis.call('EXISTS', key.of('waiting', queue, a.user), key.of('critical', queue, a.user)) == 0 then
    redis.call('ZREM', key.of('ready', queue), a.user)
  else
    redis.call('ZADD', key.of('ready', queue), rank, a.user)
  end
end

-- The user of smallest stored rank, and the rank of the one behind it.
local function first_of(domain_queues)
  local first, next_rank = nil, math.huge
  for _, queue in ipairs(domain_queues) do
    local heads = redis.call('ZRANGE', key.of('ready', queue), 0, 1, 'WITHSCORES')
    for i = 1, #heads, 2 do
      local rank = tonumber(heads[i + 1])
      if not first or rank < first.rank then
        next_rank = first and math.min(next_rank, first.rank) or next_rank
        first = { user = heads[i], queue = queue, rank = rank }
      else
        next_rank = math.min(next_rank, rank)
      end
    end
  end
  return first, next_rank
end

local function serve_domain(domain_queues)
  while count < most and looks < LOOK_AT_MOST do
    local first, next_rank = first_of(domain_queues)
    if not first then return end
    local a = account.of(first.queue, first.user)
    local rank = account.rank(a, has_critical(a, first.queue))
    if not may_run(a) then
      ready.park(a, first.queue)
      looks = looks + 1
    elseif rank > next_rank then
      redis.call('ZADD', key.of('ready', first.queue), rank, a.user)
      looks = looks + 1
    else
      serve(a, first.queue, rank, next_rank)
    end
  end
end

local function by_domain()
  local domains, found = {}, {}
  for _, queue in ipairs(queues) do
    local name = account.domain_of(queue)
    if not found[name] then
      found[name] = {}
      domains[#domains + 1] = found[name]
    end
    table.insert(found[name], queue)
  end
  return domains
end

local _, next_due = promote.due(PROMOTE_AT_MOST)
for _, domain_queues in ipairs(by_domain()) do serve_domain(domain_queues) end

for _, p in ipairs(passed) do
  redis.call('ZADD', key.of(p.set, p.queue, p.a.user), p.score, p.t.id)
  ready.put(p.a, p.queue, has_critical(p.a, p.queue))
end
for queue, number in pairs(taken) do place.less(queue, number) end
if count > 0 then
  redis.call('ZADD', key.of('claims', worker), unpack(claimed))
  redis.call('HINCRBY', key.of('counters'), 'started', count)
end
account.flush()
-- The marker was taken by one worker: while more is ready, wake the next.
if count > 0 or looks >= LOOK_AT_MOST then
  for _, queue in ipairs(queues) do
    if redis.call('EXISTS', key.of('ready', queue)) == 1 then bell.ring(queue) end
  end
end
if count == 0 and passed[1] then return record.refusal(passed[1].t) end
redis.call('HSET', key.of('worker', worker), 'claim', claim)
table.insert(answer, 1, next_due and math.max(0, next_due - clock.now) or -1)
return answer
