-- Compare-and-append: adds one event if the latest is still the one that the writer saw, and applies retention.
-- One step of Redis: readers see the state before it or after it.
--
-- KEYS  timeline, meta, the event's hash, leader
-- ARGV  id, recorded_at (µs), the latest id that the writer saw ('' for none), the bytes of `status` and of `all`,
--       most events, most age (µs), the writer's clock (µs), tolerated disagreement of clocks (µs),
--       the writer's epoch ('' for a writer that does not lead), the prefix of the events' keys, the channel,
--       who writes ('' for a writer that does not lead)
-- Reply {'APPENDED', version, trimmed by age, trimmed by count} | {'EXISTS', status bytes, all bytes}
--       | {'MOVED', the latest id} | {'FENCED', the current epoch}

local timeline, meta, body, leader = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, recorded_at, seen_latest = ARGV[1], ARGV[2], ARGV[3]
local status_bytes, all_bytes = ARGV[4], ARGV[5]
local most_events, most_age = tonumber(ARGV[6]), tonumber(ARGV[7])
local writer_now, tolerance = tonumber(ARGV[8]), tonumber(ARGV[9])
local epoch, prefix, channel, owner = ARGV[10], ARGV[11], ARGV[12], ARGV[13]

-- First of all: a writer whose reply was lost sends the same bytes again, and must learn that they are in.
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

local latest = redis.call('HGET', meta, 'latest') or ''
local latest_score = redis.call('ZSCORE', timeline, latest)
if latest ~= seen_latest or (latest_score and tonumber(recorded_at) <= tonumber(latest_score)) then
  return {'MOVED', latest}
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local clocks_agree = math.abs(now - writer_now) <= tolerance

redis.call('ZADD', timeline, recorded_at, id)
redis.call('HSET', body, 'status', status_bytes, 'all', all_bytes)
redis.call('PERSIST', body)
if latest_score then
  -- No longer the latest: from now on it ages. Where the clocks disagree nobody knows how old it is, so its age starts now.
  if clocks_agree then
    redis.call('PEXPIREAT', prefix .. latest, string.format('%.0f', math.floor((tonumber(latest_score) + most_age) / 1000)))
  else
    redis.call('PEXPIRE', prefix .. latest, string.format('%.0f', math.ceil(most_age / 1000)))
  end
end

local function trim(ids)
  local trimmed = 0
  for _, old in ipairs(ids) do
    if old ~= id then
      redis.call('DEL', prefix .. old)
      redis.call('ZREM', timeline, old)
      trimmed = trimmed + 1
    end
  end
  return trimmed
end

local by_age = 0
if clocks_agree then
  by_age = trim(redis.call('ZRANGEBYSCORE', timeline, '-inf', '(' .. string.format('%.0f', now - most_age)))
end
local by_count = 0
local excess = redis.call('ZCARD', timeline) - most_events
if excess > 0 then
  by_count = trim(redis.call('ZRANGE', timeline, 0, excess - 1))
end

redis.call('HSET', meta, 'latest', id, 'checked_at', string.format('%.0f', now))
local version = redis.call('HINCRBY', meta, 'version', 1)
redis.call('PUBLISH', channel, version)
return {'APPENDED', version, by_age, by_count}
