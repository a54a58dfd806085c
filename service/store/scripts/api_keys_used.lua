-- Records the days on which API keys were last used. Replicas do not need them, so the version does not change.
--
-- KEYS  api_keys, api_keys_used
-- ARGV  name, id, day (since 1970), name, id, day, …
-- Reply the number of days recorded: a key that was deleted meanwhile is skipped, and so is a day before the recorded one

local noted = 0
for i = 1, #ARGV, 3 do
  local name, id, day = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known_id, known_day = string.match(redis.call('HGET', KEYS[2], name) or '', '^(%w+) (%d+)$')
  local newer = known_id ~= id or tonumber(day) > tonumber(known_day)
  if newer and redis.call('HEXISTS', KEYS[1], name) == 1 then
    redis.call('HSET', KEYS[2], name, id .. ' ' .. day)
    noted = noted + 1
  end
end
return noted
