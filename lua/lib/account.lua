-- Fairness between users: start-time fair queueing on slot time, charged by accrual (DESIGN section 7; Goyal, Vin and
-- Cheng 1996). A user has one account in each domain; domains have a clock. All times are microseconds of slot time.
-- Accounts and domains are opened once a script, changed in memory, and written back by `account.flush`.
--#include lib/key
--#include lib/clock
--#include lib/hidden
--#include lib/meta
--#include lib/limit
local account = {
  FORMAT = '<ddddI4I4I4', SIZE = 44, DOMAIN_FORMAT = '<ddI4', DOMAIN_SIZE = 20,
  FIRST_ESTIMATE = 10000, ESTIMATE_CAP = 1000000, LEAST_CHARGE = 1000,
  opened = {}, order = {}, domains = {}, domain_order = {}, deltas = {},
}

-- Neither NaN nor infinite: a damaged account must not stop the queue, so it is begun anew.
local function is_number(x) return x - x == 0 end

-- The domain of a queue: each is its own, together with the hidden one beside it.
account.domain_of = hidden.base

function account.domain(name)
  local d = account.domains[name]
  if d then return d end
  d = { name = name, clock = 0, largest = 0, open = 0 }
  local raw = redis.call('HGET', key.of('domains'), name)
  if raw and #raw == account.DOMAIN_SIZE then
    local now, largest, open = struct.unpack(account.DOMAIN_FORMAT, raw)
    if is_number(now) and is_number(largest) then d.clock, d.largest, d.open = now, largest, open end
  end
  account.domains[name] = d
  table.insert(account.domain_order, d)
  return d
end

local function read(a, raw)
  if #raw ~= account.SIZE then return false end
  a.v, a.deposit, a.estimate, a.touched, a.running, a.waiting, a.critical = struct.unpack(account.FORMAT, raw)
  return is_number(a.v) and is_number(a.deposit) and is_number(a.estimate) and is_number(a.touched)
end

-- The account of a user in the domain of a queue, accrued to now.
function account.of(queue, user)
  local domain = account.domain_of(queue)
  local id = domain .. ':' .. user
  local a = account.opened[id]
  if a then return a end
  a = { user = user, domain = account.domain(domain), limits = limit.of(user) }
  local raw = redis.call('HGET', key.of('account', domain), user)
  if raw and read(a, raw) then
    a.was_idle = a.running == 0 and a.waiting == 0
    account.accrue(a)
  else
    a.v, a.deposit, a.estimate = a.domain.clock, 0, account.FIRST_ESTIMATE
    a.running, a.waiting, a.critical = 0, 0, 0
    for _, name in ipairs(raw and { domain, hidden.of(domain) } or {}) do
      local critical = redis.call('ZCARD', key.of('critical', name, user))
      a.critical = a.critical + critical
      a.waiting = a.waiting + critical + redis.call('ZCARD', key.of('waiting', name, user))
    end
  end
  account.opened[id] = a
  table.insert(account.order, a)
  return a
end

function account.accrue(a)
  local used = a.running * math.max(0, clock.now - a.touched)
  local covered = math.min(a.deposit, used)
  a.deposit = a.deposit - covered
  a.v = a.v + (used - covered) / a.limits.weight
end

-- A user that had nothing waiting starts no earlier than the clock. The dither, below a microsecond, breaks ties.
function account.enter(a, count, critical)
  if a.waiting == 0 then
    local dither = ((clock.now % 1000000 + #account.order) * 0.6180339887498949) % 1
    a.v = math.max(a.v, a.domain.clock) + dither
  end
  a.waiting, a.critical = a.waiting + count, a.critical + critical
  a.domain.open = a.domain.open + count
end

function account.leave(a, critical)
  a.waiting, a.critical = math.max(0, a.waiting - 1), math.max(0, a.critical - critical)
  a.domain.open = math.max(0, a.domain.open - 1)
end

-- Where a user stands in a ready set: its V, less the lead while CRITICAL work waits there.
function account.rank(a, has_critical)
  if has_critical then return a.v - meta.critical_lead / a.limits.weight end
  return a.v
end

-- Count a task in or out of the user's STARTED ones: in this domain, and in all of them together.
local function change_running(a, by)
  a.running = math.max(0, a.running + by)
  account.deltas[a.user] = (account.deltas[a.user] or 0) + by
end

-- Charge the start of a waiting task: the deposit is topped up to cover what now runs. The least charge is a price and
-- not a deposit, else users of tasks below it would save up free time.
function account.start(a, rank, critical)
  a.domain.clock = math.max(a.domain.clock, rank)
  local want = math.min(a.estimate, account.ESTIMATE_CAP) * (a.running + 1)
  a.v = a.v + math.max(account.LEAST_CHARGE, want - a.deposit) / a.limits.weight
  a.deposit = math.max(a.deposit, want)
  a.waiting, a.critical = math.max(0, a.waiting - 1), math.max(0, a.critical - critical)
  change_running(a, 1)
end

-- End one of the user's running tasks, which ran for `took`.
function account.stop(a, took)
  change_running(a, -1)
  a.estimate = 0.8 * a.estimate + 0.2 * math.max(0, took)
  a.domain.open = math.max(0, a.domain.open - 1)
end

-- STARTED tasks of the user in all domains, changes of this script included.
function account.running_everywhere(a)
  return tonumber(redis.call('HGET', key.of('running'), a.user) or 0) + (account.deltas[a.user] or 0)
end

local function write_account(a)
  local accounts, idle = key.of('account', a.domain.name), key.of('idle', a.domain.name)
  local is_idle, is_passed = a.running == 0 and a.waiting == 0, a.v <= a.domain.clock
  if is_idle and is_passed then
    redis.call('HDEL', accounts, a.user)
  else
    redis.call('HSET', accounts, a.user,
      struct.pack(account.FORMAT, a.v, a.deposit, a.estimate, clock.now, a.running, a.waiting, a.critical))
  end
  if is_idle and not is_passed then
    redis.call('ZADD', idle, a.v, a.user)
  elseif a.was_idle then
    redis.call('ZREM', idle, a.user)
  end
end

function account.flush()
  for _, a in ipairs(account.order) do a.domain.largest = math.max(a.domain.largest, a.v) end
  for _, d in ipairs(account.domain_order) do
    if d.open == 0 then d.clock = math.max(d.clock, d.largest) end
    redis.call('HSET', key.of('domains'), d.name, struct.pack(account.DOMAIN_FORMAT, d.clock, d.largest, d.open))
  end
  for _, a in ipairs(account.order) do write_account(a) end
  for user, delta in pairs(account.deltas) do
    if delta ~= 0 and redis.call('HINCRBY', key.of('running'), user, delta) <= 0 then
      redis.call('HDEL', key.of('running'), user)
    end
  end
end

-- Forget idle users that the clock has passed, and domains without anyone: at most `most` users of a domain.
function account.forget_idle(most)
  local forgotten = 0
  for _, name in ipairs(redis.call('HRANDFIELD', key.of('domains'), 20)) do
    local d, idle = account.domain(name), key.of('idle', name)
    local passed = redis.call('ZRANGEBYSCORE', idle, '-inf', string.format('%.17g', d.clock), 'LIMIT', 0, most)
    if #passed > 0 then
      redis.call('ZREM', idle, unpack(passed))
      redis.call('HDEL', key.of('account', name), unpack(passed))
      forgotten = forgotten + #passed
    end
    if d.open == 0 and redis.call('EXISTS', idle, key.of('account', name)) == 0 then
      redis.call('HDEL', key.of('domains'), name)
    end
  end
  return forgotten
end
