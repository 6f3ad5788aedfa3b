-- One batch of calls on the counters, each done whole or not at all. Redis runs it without interruption.
--
-- KEYS[1]  the hash of the epoch; every other key shares its hash tag and begins with the epoch's own prefix.
-- ARGV     the epoch the caller counts in, its calls (MessagePack), the time in microseconds or nothing: the server's;
--          'summing' while the epoch is not published; and, while counters are compared with the ledger, the worker's
--          name and its note: how far its journal is when these calls are done.
--
-- Money is never a number here: Lua's numbers are doubles. Amounts are decimal strings; Redis adds them as 64-bit
-- integers, and of what it answers only the sign is looked at, which no rounding can change.

local UNIT = 60000000 -- A bucket's level counts this much for one request or token; it leaks `amount` in a microsecond.
local BUCKET, WINDOW, SLOTS = 1, 2, 3
local SHADOW, FIRST, QUOTA = 1, 2, 4
local SETTLED = 'x' -- What stays of a hold for a while, where a late admission must not bring it back.
local SETTLED_FOR_MS = 60000
local HOLD_FOR_MS = 604800000
local RESTARTED_FOR = 10000000
local CLAIMED_FOR_MS = 60000
local NOTED_FOR_MS = 60000

local call = redis.call
local known = call('HMGET', KEYS[1], 'id', 'state', 'rates_from')
local summing = ARGV[4] == 'summing'
if not summing and known[1] ~= ARGV[1] then
  return redis.error_reply('EPOCH counters were made anew')
end
local shared = string.sub(KEYS[1], 1, -6)
local prefix = shared .. ARGV[1] .. ':'
local reporting = known[2] == 'reporting'
local rates_from = tonumber(known[3] or '0')

local now = tonumber(ARGV[3])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function has(flags, flag)
  return math.floor(flags / flag) % 2 == 1
end

local function expire_at(key, at)
  if at > 0 then
    call('PEXPIRE', key, math.max(1000, math.ceil((at - now) / 1000)))
  end
end

-- Limits: {kind, counter, need, amount, burst, flags, expires at, metric}

-- The level now, and by what it drains. Nothing is written.
local function drained(key, amount, burst)
  local bucket = call('HMGET', key, 'level', 'at', 'amount')
  if not bucket[1] then
    -- Counters were lost a moment ago: nobody knows what was used before, so it counts as used up then.
    if rates_from == 0 then return 0, amount end
    return math.max(0, burst * UNIT - math.max(0, now - rates_from) * amount), amount
  end
  local pace = tonumber(bucket[3])
  return math.max(0, tonumber(bucket[1]) - math.max(0, now - tonumber(bucket[2])) * pace), pace
end

local function set_bucket(key, level, pace)
  call('HSET', key, 'level', string.format('%.0f', level), 'at', string.format('%.0f', now), 'amount', pace)
  local drained_ms = pace > 0 and math.min(level / pace / 1000, 1e12) or 0
  call('PEXPIRE', key, math.ceil(drained_ms) + 60000)
end

-- The level now. An edited amount holds from here on; what was taken stays taken.
local function bucket_level(key, amount, burst)
  local level, pace = drained(key, amount, burst)
  if pace ~= amount then set_bucket(key, level, amount) end
  return level
end

local function occupied(key)
  call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
  return call('ZCARD', key)
end

-- Whether the limit has room; how much it leaves, and in how many microseconds a bucket has room.
local function look(limit)
  local kind, key, need, amount, burst = limit[1], prefix .. limit[2], limit[3], limit[4], limit[5]
  local first = has(limit[6], FIRST)
  if kind == BUCKET then
    local level = bucket_level(key, amount, burst)
    local room = burst * UNIT - level
    if amount == 0 or burst == 0 then return false, 0, 0 end
    local excess = need * UNIT - room
    if first and need > burst then excess = level end
    return excess <= 0, room, math.ceil(excess / amount)
  end
  local used = kind == SLOTS and occupied(key) or tonumber(call('GET', key) or '0')
  local fits = amount > 0 and (used + need <= amount or (first and used == 0))
  return fits, amount - used, 0
end

local function take_limit(limit, id, lease_until)
  local kind, key, need = limit[1], prefix .. limit[2], limit[3]
  if kind == BUCKET then
    local level = bucket_level(key, limit[4], limit[5]) + need * UNIT
    set_bucket(key, level, limit[4])
    return level
  elseif kind == WINDOW then
    if call('INCRBY', key, need) == need then expire_at(key, limit[7]) end
  else
    call('ZADD', key, string.format('%.0f', lease_until), id)
    call('PEXPIRE', key, math.ceil((lease_until - now) / 500))
  end
end

-- What requests that run have taken of a window: the counter without it is what the ledger says too.
local function note_running(limit, amount)
  if limit[1] == WINDOW and amount ~= 0 and call('HINCRBY', prefix .. 'running', limit[2], amount) == 0 then
    call('HDEL', prefix .. 'running', limit[2])
  end
end

-- Corrects what was taken to what was used, which may drive a bucket into debt. Of what was not used only that flows
-- back which has not drained by itself since, or a request that runs for minutes would let the same amount pass twice.
local function correct_bucket(key, limit, difference)
  local level, pace = drained(key, limit[4], limit[5])
  local back = difference * UNIT
  if difference < 0 then
    local undrained = limit[10] - math.max(0, now - limit[11]) * pace
    back = -math.max(0, math.min(-back, undrained, level))
  end
  if back ~= 0 then set_bucket(key, level + back, pace) end
end

local function correct_limit(limit, id, difference)
  local kind, key = limit[1], prefix .. limit[2]
  if kind == SLOTS then
    call('ZREM', key, id)
  elseif difference ~= 0 then
    if kind == BUCKET then
      correct_bucket(key, limit, difference)
    elseif call('INCRBY', key, difference) == difference then
      call('DEL', key) -- The window was over and forgotten.
    end
  end
end

local function give_back(limit, id)
  note_running(limit, -limit[3])
  correct_limit(limit, id, -limit[3])
end

-- Budgets: {window, limit, strict, expires at}

local function minus(amount)
  if amount == '0' then return amount end
  return string.sub(amount, 1, 1) == '-' and string.sub(amount, 2) or '-' .. amount
end

-- A window keeps what remains of the limit it was last asked with; another limit holds from this call on.
local function relimit(budget)
  local key, limit = prefix .. budget[1], budget[2]
  local before = call('HGET', key, 'limit')
  if before == limit then return key end
  if before then
    call('HINCRBY', key, 'remaining', minus(before))
    call('HINCRBY', key, 'remaining', limit)
    call('HSET', key, 'limit', limit)
  else
    call('HSET', key, 'remaining', limit, 'limit', limit, 'held', '0')
    expire_at(key, budget[4])
  end
  return key
end

local function is_spent(remaining)
  return remaining == '0' or string.sub(remaining, 1, 1) == '-'
end

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- floor(amount / share) of a decimal string, seven digits at a time: every step stays far below 2^53.
local function divided(amount, share)
  if share <= 1 then return amount end
  local padded = string.rep('0', (7 - #amount % 7) % 7) .. amount
  local left, out = 0, {}
  for start = 1, #padded, 7 do
    local piece = left * 10000000 + tonumber(string.sub(padded, start, start + 6))
    local digits = math.floor(piece / share)
    left = piece - digits * share
    out[#out + 1] = string.format('%07.0f', digits)
  end
  local text = string.gsub(table.concat(out), '^0+', '')
  return text == '' and '0' or text
end

local function take_budget(key, amount, is_grant)
  if amount == '0' then
    local remaining = call('HGET', key, 'remaining')
    return not is_spent(remaining) or (is_grant and remaining == '0')
  end
  local remaining = redis.pcall('HINCRBY', key, 'remaining', minus(amount))
  if type(remaining) ~= 'number' then return false end -- Beyond 64 bits: nothing was taken.
  if remaining < 0 then
    call('HINCRBY', key, 'remaining', amount)
    return false
  end
  call('HINCRBY', key, 'held', amount)
  return true
end

local function return_budget(key, amount)
  call('HINCRBY', key, 'remaining', amount)
  call('HINCRBY', key, 'held', minus(amount))
end

-- Targets: {limits, budgets, expected, wanted or false, least, share}

-- What every strict budget can pay: between the least and the wanted, and no more than its share of what remains.
local function grant(budgets, target)
  local granted = false
  for _, budget in ipairs(budgets) do
    if budget[3] then
      granted = granted or target[4]
      local remaining = call('HGET', relimit(budget), 'remaining')
      local part = is_spent(remaining) and '0' or divided(remaining, target[6])
      if less(part, granted) then granted = part end
    end
  end
  return granted and less(granted, target[5]) and target[5] or granted
end

local function joined(first, second)
  local all = {}
  for _, each in ipairs(first) do all[#all + 1] = each end
  for _, each in ipairs(second) do all[#all + 1] = each end
  return all
end

-- Takes from all budgets or none. Returns the windows held ({window, amount, strict}), or nothing and which one could
-- not pay.
local function take_budgets(budgets, target, granted)
  local windows = {}
  for index, budget in ipairs(budgets) do
    local key = relimit(budget)
    local is_grant = budget[3] and granted
    local amount = is_grant and granted or target[3]
    if not take_budget(key, amount, is_grant) then
      for _, window in ipairs(windows) do return_budget(prefix .. window[1], window[2]) end
      return nil, index
    end
    windows[index] = {budget[1], amount, budget[3]}
  end
  return windows
end

local function refused_by_budget(index, budget, of_target)
  local window = call('HMGET', prefix .. budget[1], 'remaining', 'held')
  return {'budget', index, of_target, window[1], window[2]}
end

-- The first limit without room; limits in shadow mode are only noted.
local function first_full(limits, shadowed, of_target)
  for index, limit in ipairs(limits) do
    local fits, room, wait = look(limit)
    if not fits then
      if has(limit[6], SHADOW) then
        shadowed[limit[2]] = true
      else
        return {'limit', index, of_target, room, wait}
      end
    end
  end
end

local function take_limits(limits, shadowed, id, lease_until, taken, of_target)
  for _, limit in ipairs(limits) do
    if not shadowed[limit[2]] then
      local level = take_limit(limit, id, lease_until) or 0
      note_running(limit, limit[3])
      taken[#taken + 1] = {
        limit[1], limit[2], limit[3], limit[4], limit[5], limit[6], limit[7], limit[8], of_target, level, now,
      }
    end
  end
end

-- What every limit leaves now: {room, microseconds until it is as if never used}
local function room_of(limits)
  local rooms = {}
  for index, limit in ipairs(limits) do
    local kind, key = limit[1], prefix .. limit[2]
    if kind == BUCKET then
      local level = bucket_level(key, limit[4], limit[5])
      rooms[index] = {limit[5] * UNIT - level, limit[4] > 0 and math.ceil(level / limit[4]) or 0}
    elseif kind == WINDOW then
      rooms[index] = {limit[4] - tonumber(call('GET', key) or '0'), 0}
    else
      rooms[index] = {limit[4] - call('ZCARD', key), 0}
    end
  end
  return rooms
end

local function remaining_of(windows)
  local left = {}
  for index, window in ipairs(windows) do left[index] = call('HGET', prefix .. window[1], 'remaining') end
  return left
end

local function names(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  return list
end

local function keep_hold(id, windows, taken)
  call('SET', prefix .. 'hold:' .. id, cmsgpack.pack({windows, taken}), 'PX', HOLD_FOR_MS)
end

local function is_closed(limits, budgets)
  if not reporting then return false end
  for _, limit in ipairs(limits) do
    if has(limit[6], QUOTA) and not has(limit[6], SHADOW) then return true end
  end
  for _, budget in ipairs(budgets) do
    if budget[3] then return true end
  end
  return false
end

local function mark_target(windows, callers)
  for index, window in ipairs(windows) do window[4] = index > callers end
  return windows
end

local operations = {}

-- Takes the holds and looks at the limits of a target. Returns the windows held and the grant, or nothing and the
-- refusal.
local function fit(budgets, target, number, shadowed)
  if is_closed(target[1], target[2]) then return nil, {'closed'} end
  local all = joined(budgets, target[2])
  local granted = target[4] and grant(all, target)
  local windows, poor = take_budgets(all, target, granted)
  if not windows then
    if poor <= #budgets then return nil, refused_by_budget(poor, all[poor], 0) end
    return nil, refused_by_budget(poor - #budgets, all[poor], number)
  end
  local full = first_full(target[1], shadowed, number)
  if full then
    for _, window in ipairs(windows) do return_budget(prefix .. window[1], window[2]) end
    return nil, full
  end
  return mark_target(windows, #budgets), granted
end

-- {id, limits, budgets, targets, lease in microseconds}
function operations.admit(id, limits, budgets, targets, lease)
  if call('EXISTS', prefix .. 'hold:' .. id) == 1 then return {'known'} end
  if is_closed(limits, budgets) then return {'closed'} end
  local shadowed = {}
  local refusal = first_full(limits, shadowed, 0)
  if refusal then return refusal end
  for number, target in ipairs(targets) do
    local hidden, taken = {}, {}
    local windows, granted = fit(budgets, target, number, hidden)
    if windows then
      take_limits(limits, shadowed, id, now + lease, taken, false)
      take_limits(target[1], hidden, id, now + lease, taken, true)
      for name in pairs(hidden) do shadowed[name] = true end
      keep_hold(id, windows, taken)
      return {'taken', number, granted, room_of(limits), room_of(target[1]), remaining_of(windows), names(shadowed)}
    end
    -- The caller's own refusal says more than that one of the targets has no room.
    if not refusal or (refusal[3] ~= 0 and granted[1] == 'budget' and granted[3] == 0) then refusal = granted end
  end
  return refusal
end

-- Gives back what the former target took. Returns what puts it back.
local function leave_target(id, hold)
  local undo = {}
  for _, limit in ipairs(hold[2]) do
    if limit[9] then
      local key = prefix .. limit[2]
      if limit[1] == BUCKET then
        local level, pace = drained(key, limit[4], limit[5])
        undo[#undo + 1] = function() set_bucket(key, level, pace) end
      elseif limit[1] == WINDOW then
        undo[#undo + 1] = function()
          call('INCRBY', key, limit[3])
          note_running(limit, limit[3])
        end
      else
        local score = call('ZSCORE', key, id)
        undo[#undo + 1] = function() if score then call('ZADD', key, score, id) end end
      end
      give_back(limit, id)
    end
  end
  for _, window in ipairs(hold[1]) do
    local key = prefix .. window[1]
    return_budget(key, window[2])
    undo[#undo + 1] = function()
      call('HINCRBY', key, 'remaining', minus(window[2]))
      call('HINCRBY', key, 'held', window[2])
    end
  end
  return undo
end

-- {id, the caller's budgets, target, lease}
function operations.move(id, budgets, target, lease)
  local kept = call('GET', prefix .. 'hold:' .. id)
  if not kept or kept == SETTLED then return {'unknown'} end
  if is_closed(target[1], target[2]) or is_closed({}, budgets) then return {'closed'} end
  local hold = cmsgpack.unpack(kept)
  local undo = leave_target(id, hold)
  local shadowed, taken = {}, {}
  local windows, granted = fit(budgets, target, 1, shadowed)
  if not windows then
    for _, step in ipairs(undo) do step() end
    return granted
  end
  for _, limit in ipairs(hold[2]) do
    if not limit[9] then taken[#taken + 1] = limit end
  end
  take_limits(target[1], shadowed, id, now + lease, taken, true)
  keep_hold(id, windows, taken)
  local held = {}
  for _, window in ipairs(windows) do held[window[1]] = window[2] end
  for _, window in ipairs(hold[1]) do
    if less(held[window[1]] or '0', window[2]) then call('HINCRBY', prefix .. window[1], 'returned', 1) end
  end
  return {'taken', 1, granted, {}, room_of(target[1]), remaining_of(windows), names(shadowed)}
end

-- {id, cost, tokens used by metric or false, budgets that came meanwhile, whether it may be unknown still, what strict
-- budgets are charged besides the cost}
function operations.settle(id, cost, used, others, unsure, reserved)
  local key = prefix .. 'hold:' .. id
  local kept = call('GET', key)
  if unsure then call('SET', key, SETTLED, 'PX', SETTLED_FOR_MS) elseif kept then call('DEL', key) end
  if not kept or kept == SETTLED then return false end
  local hold = cmsgpack.unpack(kept)
  for _, window in ipairs(hold[1]) do
    local window_key = prefix .. window[1]
    if call('EXISTS', window_key) == 1 then
      return_budget(window_key, window[2])
      call('HINCRBY', window_key, 'remaining', minus(cost))
      if reserved and window[3] then call('HINCRBY', window_key, 'remaining', minus(reserved)) end
      if less(cost, window[2]) then call('HINCRBY', window_key, 'returned', 1) end
    end
  end
  for _, limit in ipairs(hold[2]) do
    local difference = used and (used[limit[8]] or limit[3]) - limit[3] or -limit[3]
    note_running(limit, -limit[3])
    correct_limit(limit, id, difference)
  end
  for _, budget in ipairs(others) do call('HINCRBY', relimit(budget), 'remaining', minus(cost)) end
  return true
end

-- Whether the call with this number was not made yet: its answer may have been lost, and it is made again.
local function is_new(number)
  return call('SET', prefix .. 'done:' .. number, '1', 'NX', 'PX', SETTLED_FOR_MS) and true or false
end

-- Takes what was taken already, room or not. {number, id, windows ({budget, amount, of target}), limits, lease}
function operations.keep(number, id, windows, limits, lease)
  local kept = call('GET', prefix .. 'hold:' .. id)
  if not is_new(number) or (kept and kept ~= SETTLED) then return false end
  local held = {}
  for index, window in ipairs(windows) do
    local key = relimit(window[1])
    call('HINCRBY', key, 'remaining', minus(window[2]))
    call('HINCRBY', key, 'held', window[2])
    held[index] = {window[1][1], window[2], window[1][3], window[3]}
  end
  local taken = {}
  for _, limit in ipairs(limits) do
    take_limits({limit}, {}, id, now + lease, taken, limit[9])
  end
  keep_hold(id, held, taken)
  return true
end

-- Every worker learns of a new budget and says what was spent before; the first one is listened to.
local function is_of_another(key, worker)
  local restarted = call('HMGET', key, 'restarted_by', 'restarted_at')
  return restarted[1] and restarted[1] ~= worker and now - tonumber(restarted[2]) < RESTARTED_FOR
end

-- {number, budget, cost, worker or false}
function operations.book(number, budget, cost, worker)
  if not is_new(number) or (worker and is_of_another(prefix .. budget[1], worker)) then return false end
  call('HINCRBY', relimit(budget), 'remaining', minus(cost))
  return true
end

-- {number, limit}: what it needs was used.
function operations.use(number, limit)
  if not is_new(number) then return false end
  take_limit(limit, number, now)
  return true
end

-- {number, budget, worker}: nothing is settled, what is held stays.
function operations.restart(number, budget, worker)
  if not is_new(number) or is_of_another(prefix .. budget[1], worker) then return false end
  local key = relimit(budget)
  call('HSET', key, 'restarted_by', worker, 'restarted_at', string.format('%.0f', now))
  call('HSET', key, 'remaining', budget[2])
  call('HINCRBY', key, 'remaining', minus(call('HGET', key, 'held')))
  return true
end

-- New rules, {kind, its packed form or name}: who sums each of them up. Each worker asks before it counts anything for
-- them, so whatever a counter says at the first time is of an earlier life of the rule.
function operations.claim(rules, claimant)
  local owners = {}
  for index, rule in ipairs(rules) do
    local is_budget = rule[1] == 'budget'
    local name = is_budget and rule[2][1] or rule[2]
    local claim = prefix .. 'claim:' .. name
    owners[index] = call('GET', claim)
    if not owners[index] then
      call('SET', claim, claimant, 'PX', CLAIMED_FOR_MS)
      owners[index] = claimant
      if not is_budget then
        call('DEL', prefix .. name)
      elseif call('EXISTS', prefix .. name) == 1 then
        local key = relimit(rule[2])
        call('HSET', key, 'remaining', rule[2][2])
        call('HINCRBY', key, 'remaining', minus(call('HGET', key, 'held')))
      end
    end
  end
  return owners
end

-- {budget} -> what remains and is held
function operations.state(budget)
  if call('EXISTS', prefix .. budget[1]) == 0 then return {budget[2], '0'} end
  return call('HMGET', relimit(budget), 'remaining', 'held')
end

function operations.used(limit)
  local kind, key = limit[1], prefix .. limit[2]
  if kind == BUCKET then return math.ceil(bucket_level(key, limit[4], limit[5]) / UNIT) end
  if kind == SLOTS then return occupied(key) end
  return tonumber(call('GET', key) or '0')
end

-- {counter, ids, lease}: their requests still run.
function operations.renew(counter, ids, lease)
  local key, lease_until = prefix .. counter, string.format('%.0f', now + lease)
  for _, id in ipairs(ids) do call('ZADD', key, lease_until, id) end
  call('PEXPIRE', key, math.ceil(lease / 500))
  return #ids
end

-- How often something of what was held of each window has returned.
function operations.returned(windows)
  local counts = {}
  for index, window in ipairs(windows) do
    counts[index] = tonumber(call('HGET', prefix .. window, 'returned') or '0')
  end
  return counts
end

-- What counters say, and in the same moment who counts and how far all journals are. {the comparison, windows of
-- budgets, counters of limits}
function operations.compared(comparison, windows, counters)
  if string.sub(call('GET', shared .. 'comparing') or '', 1, #comparison) ~= comparison then return false end
  local budgets, limits = {}, {}
  for index, name in ipairs(windows) do
    budgets[index] = call('HMGET', prefix .. name, 'limit', 'remaining', 'held')
  end
  for index, name in ipairs(counters) do
    limits[index] = tonumber(call('GET', prefix .. name) or '0') - tonumber(call('HGET', prefix .. 'running', name) or '0')
  end
  local workers, seconds = call('ZRANGE', shared .. 'workers', 0, -1), tonumber(call('TIME')[1])
  return {budgets, limits, workers, call('HGETALL', shared .. 'journals'), call('HGETALL', prefix .. 'notes'), seconds}
end

-- {who compares, kind, rule, what it lacks}: only while nobody else compares.
function operations.put_right(worker, kind, rule, amount)
  if call('GET', shared .. 'comparer') ~= worker then return false end
  if kind == 'budget' then
    call('HINCRBY', relimit(rule), 'remaining', minus(amount))
  else
    rule[3] = amount
    take_limit(rule, worker, now)
  end
  return true
end

local answers = {}
for index, asked in ipairs(cmsgpack.unpack(ARGV[2])) do
  local done, answer = pcall(operations[asked[1]], unpack(asked, 2))
  answers[index] = done and answer or (not done and {'error', tostring(answer)}) or false
end
if ARGV[5] then
  call('HSET', prefix .. 'notes', ARGV[5], ARGV[6])
  call('PEXPIRE', prefix .. 'notes', NOTED_FOR_MS)
end
return cmsgpack.pack(answers)
