-- Records when a check was completed. This is not a change: the version stays, and nothing is published.
--
-- KEYS  meta, leader
-- ARGV  the monitor's epoch, its lease owner (both '' for one without a lease), when the check was completed (µs, '' for now)
-- Reply {'CHECKED'} | {'FENCED', the current epoch}

if ARGV[1] ~= '' then
  local current = redis.call('HGET', KEYS[1], 'epoch') or '0'
  local holder = redis.call('GET', KEYS[2])
  if tonumber(ARGV[1]) < tonumber(current) or (ARGV[2] ~= '' and holder and holder ~= ARGV[2]) then
    return {'FENCED', current}
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
-- A delayed command must not make a check look more recent than it is, nor replace a later check.
local checked_at = math.min(now, tonumber(ARGV[3]) or now)
local noted = tonumber(redis.call('HGET', KEYS[1], 'checked_at') or 0)
if noted <= now then
  checked_at = math.max(checked_at, noted)
end
redis.call('HSET', KEYS[1], 'checked_at', string.format('%.0f', checked_at))
return {'CHECKED'}
