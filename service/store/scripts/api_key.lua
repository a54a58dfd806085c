-- Creates or deletes one API key, and notifies the replicas.
--
-- KEYS  api_keys, meta, api_keys_used
-- ARGV  name, the stored form of the key ('' deletes it), the channel, the stamp of this change
-- Reply {1 if the key was created or deleted, 0 if one of that name exists (create) or none does (delete),
--       1 if the notification was published, else 0}

local api_keys, meta, used = KEYS[1], KEYS[2], KEYS[3]
local name, value, channel, stamp = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- Everything that can fail comes before the first write. These calls fail for a Redis key of another type.
local exists = redis.call('HEXISTS', api_keys, name) == 1
local version = redis.call('HGET', meta, 'version') or '0'
redis.call('HLEN', used)
if not tonumber(version) then
  return redis.error_reply('ERR the version is not a number')
end
if exists == (value ~= '') then
  return {0, 0}
end

-- The version comes first: a version without its change does no harm, but no replica would see a change without its version.
version = redis.call('HINCRBY', meta, 'version', 1)
redis.call('HSET', meta, 'stamp', stamp)
if value == '' then
  redis.call('HDEL', api_keys, name)
  redis.pcall('HDEL', used, name)
else
  redis.call('HSET', api_keys, name, value)
end
local published = redis.pcall('PUBLISH', channel, version)
return {1, type(published) == 'number' and 1 or 0}
