-- Reads the store in one step. Read-only. What the reader knows already is not sent again.
--
-- KEYS  timeline, meta, api_keys
-- ARGV  the version and the latest id that the reader knows ('' for none), the recorded_at (µs) of that latest, from
--       which it needs events ('-inf' for all), most events, the prefix of the events' keys
-- Reply {now (µs), version, latest id, checked_at (µs or '')}, and, unless version and latest are the known ones,
--       three more: {name, key, …} of the API keys, {id, recorded_at, status bytes, all bytes, …} newest first,
--       in which only the first event has its `all` bytes, and the recorded_at (µs) until which events were trimmed for their
--       bytes ('' if none was). The bytes of an event that expired are ''.

local timeline, meta, api_keys = KEYS[1], KEYS[2], KEYS[3]
local known_version, known_latest, from = ARGV[1], ARGV[2], ARGV[3]
local most_events, prefix = tonumber(ARGV[4]), ARGV[5]

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
local known = redis.call('HMGET', meta, 'version', 'latest', 'checked_at', 'cut_at')
local version, latest, checked_at = known[1] or '0', known[2] or '', known[3] or ''
if version == known_version and latest == known_latest then
  -- A store that lost its data may have come to the same version and id with another event.
  if from == '-inf' or tonumber(redis.call('ZSCORE', timeline, latest) or 0) == tonumber(from) then
    return {now, version, latest, checked_at}
  end
end

local events = {}
local rows = redis.call('ZREVRANGEBYSCORE', timeline, '+inf', from, 'WITHSCORES', 'LIMIT', 0, most_events)
for i = 1, #rows, 2 do
  local projections = redis.call('HMGET', prefix .. rows[i], 'status', i == 1 and 'all' or 'status')
  events[#events + 1] = rows[i]
  events[#events + 1] = rows[i + 1]
  events[#events + 1] = projections[1] or ''
  events[#events + 1] = i == 1 and projections[2] or ''
end
return {now, version, latest, checked_at, redis.call('HGETALL', api_keys), events, known[4] or ''}
