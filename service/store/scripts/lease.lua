-- Takes or renews the lease of the leading monitor. Each time that it is taken, a new epoch begins.
--
-- KEYS  leader, meta
-- ARGV  who asks, the lease's time to live (ms), the highest epoch that the asker has seen
-- Reply {'LEADS', epoch} | {'HELD', epoch, by whom, for how long yet (ms)}

local leader, meta = KEYS[1], KEYS[2]
local owner, ttl, seen = ARGV[1], ARGV[2], tonumber(ARGV[3])

local holder = redis.call('GET', leader)
local epoch = tonumber(redis.call('HGET', meta, 'epoch') or '0')
if holder and holder ~= owner then
  return {'HELD', epoch, holder, redis.call('PTTL', leader)}
end
-- A store that lost its data, or a replica that was promoted too early, must not hand out an epoch for the second time.
if not holder or epoch < seen then
  epoch = math.max(epoch, seen) + 1
  redis.call('HSET', meta, 'epoch', string.format('%.0f', epoch))
end
redis.call('SET', leader, owner, 'PX', ttl)
return {'LEADS', epoch}
