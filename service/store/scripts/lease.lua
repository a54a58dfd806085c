-- Acquires or renews the lease of the leading monitor. Each acquisition begins a new epoch.
--
-- KEYS  leader, meta
-- ARGV  the owner, the lease's time to live (ms), the highest epoch that the owner has seen
-- Reply {'LEADS', epoch} | {'HELD', epoch, the other owner, the remaining time of its lease (ms)}

local leader, meta = KEYS[1], KEYS[2]
local owner, ttl, seen = ARGV[1], ARGV[2], tonumber(ARGV[3])

local holder = redis.call('GET', leader)
local epoch = tonumber(redis.call('HGET', meta, 'epoch') or '0')
if holder and holder ~= owner then
  return {'HELD', epoch, holder, redis.call('PTTL', leader)}
end
-- A store that lost its data, or a Redis replica that was promoted too early, must not issue the same epoch twice.
if not holder or epoch < seen then
  epoch = math.max(epoch, seen) + 1
  redis.call('HSET', meta, 'epoch', string.format('%.0f', epoch))
end
redis.call('SET', leader, owner, 'PX', ttl)
return {'LEADS', epoch}
