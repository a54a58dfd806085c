-- Compare-and-append: adds one event if the latest event is still the one that the writer read, and applies retention.
-- It is atomic: readers see the state before it or after it. Everything that can fail comes before the first write.
--
-- KEYS  timeline, meta, the event's hash, leader
-- ARGV  id, recorded_at (µs), the latest id that the writer read ('' for none), the bytes of `status` and of `all`,
--       most events, most age (µs), the writer's clock (µs), tolerated difference of the clocks (µs),
--       the writer's epoch ('' for a writer without a lease), the prefix of the events' keys, the channel,
--       the writer's lease owner ('' for a writer without a lease), most bytes of all events, the stamp of this change,
--       when the check was completed (µs)
-- Reply {'APPENDED', version, trimmed by age, by count, by bytes, 1 if the change was published}
--       | {'EXISTS', status bytes, all bytes} | {'MOVED', the latest id} | {'FENCED', the current epoch}

local timeline, meta, body, leader = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, recorded_at, seen_latest = ARGV[1], ARGV[2], ARGV[3]
local status_bytes, all_bytes = ARGV[4], ARGV[5]
local most_events, most_age = tonumber(ARGV[6]), tonumber(ARGV[7])
local writer_now, tolerance = tonumber(ARGV[8]), tonumber(ARGV[9])
local epoch, prefix, channel, owner = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local most_bytes, stamp, checked_at = tonumber(ARGV[14]) or math.huge, ARGV[15], tonumber(ARGV[16])

local function text(number)
  return string.format('%.0f', number)
end

-- This comes first: a writer whose reply was lost sends the same bytes again, and must learn that they are stored.
local known = redis.call('HMGET', body, 'status', 'all')
if known[2] then
  return {'EXISTS', known[1], known[2]}
end

if epoch ~= '' then
  local current = redis.call('HGET', meta, 'epoch') or '0'
  local holder = redis.call('GET', leader)
  if tonumber(epoch) < tonumber(current) or (owner ~= '' and holder and holder ~= owner) then
    return {'FENCED', current}
  end
end

local state = redis.call('HMGET', meta, 'latest', 'version', 'bytes', 'bytes_as_of', 'bytes_exact')
local latest = state[1] or ''
local latest_score = redis.call('ZSCORE', timeline, latest)
if latest ~= seen_latest or (latest_score and tonumber(recorded_at) <= tonumber(latest_score)) then
  return {'MOVED', latest}
end
local version = tonumber(state[2] or 0) + 1

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local clocks_agree = math.abs(now - writer_now) <= tolerance

-- As in checked.lua: a delayed append must not make its check look more recent, nor replace a later check.
checked_at = math.min(now, checked_at)
local noted = tonumber(redis.call('HGET', meta, 'checked_at') or 0)
if noted <= now then
  checked_at = math.max(checked_at, noted)
end

-- Retention trims the oldest events. Their number is computed before the first write, and they are removed before the new
-- event is added, so that memory never exceeds the limit.
local function size(event)
  return redis.call('HSTRLEN', prefix .. event, 'status') + redis.call('HSTRLEN', prefix .. event, 'all')
end

local others = redis.call('ZCARD', timeline)
local anew = redis.call('ZSCORE', timeline, id) -- Its body has expired, so it is recorded again.
if anew then
  others = others - 1
end
local by_age, by_count, by_bytes = 0, 0, 0
if clocks_agree then
  by_age = redis.call('ZCOUNT', timeline, '-inf', '(' .. text(now - most_age))
end
by_count = math.max(0, others + 1 - most_events - by_age)
local trimmed = {}
if by_age + by_count > 0 then
  trimmed = redis.call('ZRANGE', timeline, 0, by_age + by_count - 1)
end

-- `bytes` is the size of all events when `bytes_as_of` was the latest event; writers of earlier versions do not maintain it.
-- It is exact (`bytes_exact`) until an event whose body has expired in Redis is trimmed or recorded again; then it may be too
-- high. Before a number that is not exact makes an event be trimmed, all events are measured.
local new_bytes = #status_bytes + #all_bytes
local bytes, exact, measured = math.huge, false, false
if state[4] == latest and tonumber(state[3]) then
  bytes, exact = tonumber(state[3]), state[5] == '1' and not anew
end
for _, event in ipairs(trimmed) do
  local leaving = size(event)
  bytes, exact = bytes - leaving, exact and leaving > 0
end
local cut_at
while bytes + new_bytes > most_bytes or bytes == math.huge do
  if not exact and not measured then
    bytes = 0
    for _, event in ipairs(redis.call('ZRANGE', timeline, #trimmed, -1)) do
      bytes = bytes + size(event)
    end
    exact, measured = true, true
  else
    local oldest = redis.call('ZRANGE', timeline, #trimmed, #trimmed, 'WITHSCORES')
    if #oldest == 0 then
      break -- The new event alone is larger than the limit; it is the latest, so it stays.
    end
    local leaving = size(oldest[1])
    bytes, exact = bytes - leaving, measured or leaving > 0
    by_bytes, cut_at = by_bytes + 1, oldest[2]
    trimmed[#trimmed + 1] = oldest[1]
  end
end

-- The writes begin here. When memory is full, Redis refuses only the first write of a script.
for _, event in ipairs(trimmed) do
  redis.call('DEL', prefix .. event)
  redis.call('ZREM', timeline, event)
end
redis.call('ZADD', timeline, recorded_at, id)
redis.call('HSET', body, 'status', status_bytes, 'all', all_bytes)
redis.call('PERSIST', body)
if latest_score then
  -- It is no longer the latest, so it expires. If the clocks disagree its age is not known, and counts from now.
  if clocks_agree then
    redis.call('PEXPIREAT', prefix .. latest, text(math.floor((tonumber(latest_score) + most_age) / 1000)))
  else
    redis.call('PEXPIRE', prefix .. latest, text(math.ceil(most_age / 1000)))
  end
end
redis.call('HSET', meta, 'latest', id, 'version', text(version), 'stamp', stamp, 'checked_at', text(checked_at),
  'bytes', text(bytes + new_bytes), 'bytes_as_of', id, 'bytes_exact', exact and '1' or '0')
if cut_at then
  redis.call('HSET', meta, 'cut_at', cut_at) -- Replicas drop what was recorded until then.
end
-- A Redis user without permission for the channel: the change is stored, and replicas see it at their next heartbeat.
local published = redis.pcall('PUBLISH', channel, text(version))
return {'APPENDED', version, by_age, by_count, by_bytes, type(published) == 'number' and 1 or 0}
