-- Creates or deletes one API key, and tells the replicas.
--
-- KEYS  api_keys, meta, api_keys_used
-- ARGV  name, what is to be known of the key ('' deletes it), the channel
-- Reply 1, or 0 if a key of that name exists (create) or none does (delete)

local name, value, channel = ARGV[1], ARGV[2], ARGV[3]
local version = string.format('%.0f', tonumber(redis.call('HGET', KEYS[2], 'version') or 0) + 1)
local changed
if value == '' then
  changed = redis.call('HDEL', KEYS[1], name)
  redis.call('HDEL', KEYS[3], name)
else
  changed = redis.call('HSETNX', KEYS[1], name, value)
end
if changed == 1 then
  redis.call('HSET', KEYS[2], 'version', version)
  redis.pcall('PUBLISH', channel, version) -- Where the user may not: replicas see the change at their next heartbeat.
end
return changed
