-- Notes that a check was completed now. Not a change: no version, no publication.
--
-- KEYS  meta
-- ARGV  the monitor's epoch ('' for one that does not lead)
-- Reply {'CHECKED'} | {'FENCED', the current epoch}

if ARGV[1] ~= '' then
  local current = redis.call('HGET', KEYS[1], 'epoch') or '0'
  if tonumber(ARGV[1]) < tonumber(current) then
    return {'FENCED', current}
  end
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'checked_at', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
return {'CHECKED'}
