-- Reads the store atomically. Read-only. It does not send what the reader already has.
--
-- KEYS  timeline, meta, api_keys
-- ARGV  the version, its stamp and the latest id that the reader has ('' for none), the recorded_at (µs) of that latest event:
--       events from then on are sent ('-inf' for all), most events, the prefix of the events' keys
-- Reply {now (µs), version, stamp, latest id, checked_at (µs or '')}, and five more elements unless version, stamp and latest
--       are those of the reader: {name, key, …} of the API keys, the number of events in the timeline, the recorded_at of the
--       oldest event, the recorded_at until which events were trimmed because of their bytes ('0' for none), and {id, recorded_at,
--       status bytes, all bytes, …} newest first. Only the first event has its `all` bytes; the others have '1' if there are such
--       bytes. Bytes that have expired are ''.

local timeline, meta, api_keys = KEYS[1], KEYS[2], KEYS[3]
local known_version, known_stamp, known_latest, from = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most_events, prefix = tonumber(ARGV[5]), ARGV[6]

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
local known = redis.call('HMGET', meta, 'version', 'stamp', 'latest', 'checked_at', 'cut_at')
local version, stamp, latest, checked_at = known[1] or '0', known[2] or '', known[3] or '', known[4] or ''
if version == known_version and stamp == known_stamp and latest == known_latest then
  -- If no stamp was written yet, a store that lost its data may have reached the same version and id with another event.
  if stamp ~= '' or from == '-inf' or tonumber(redis.call('ZSCORE', timeline, latest) or 0) == tonumber(from) then
    return {now, version, stamp, latest, checked_at}
  end
end

local events = {}
local rows = redis.call('ZREVRANGEBYSCORE', timeline, '+inf', from, 'WITHSCORES', 'LIMIT', 0, most_events)
for i = 1, #rows, 2 do
  local body = prefix .. rows[i]
  local full
  if i == 1 then
    full = redis.call('HGET', body, 'all') or ''
  else
    full = redis.call('HSTRLEN', body, 'all') > 0 and '1' or ''
  end
  events[#events + 1] = rows[i]
  events[#events + 1] = rows[i + 1]
  events[#events + 1] = redis.call('HGET', body, 'status') or ''
  events[#events + 1] = full
end
local oldest = redis.call('ZRANGE', timeline, 0, 0, 'WITHSCORES')
return {
  now, version, stamp, latest, checked_at,
  redis.call('HGETALL', api_keys), redis.call('ZCARD', timeline), oldest[2] or '0', known[5] or '0', events
}
