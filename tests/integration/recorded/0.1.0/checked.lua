-- Notes that a check was completed now. Not a change: no version, no publication.
--
-- KEYS  meta, leader
-- ARGV  the monitor's epoch, and who it is ('' for one that does not lead)
-- Reply {'CHECKED'} | {'FENCED', the current epoch}

if ARGV[1] ~= '' then
  local current = redis.call('HGET', KEYS[1], 'epoch') or '0'
  local holder = redis.call('GET', KEYS[2])
  if tonumber(ARGV[1]) < tonumber(current) or (ARGV[2] ~= '' and holder and holder ~= ARGV[2]) then
    return {'FENCED', current}
  end
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'checked_at', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
return {'CHECKED'}
