-- Gives the lease back, so that another monitor need not wait for its end. Another's lease is left alone.
--
-- KEYS  leader
-- ARGV  who gives it back
-- Reply {'RELEASED', 1 if it was held, else 0}

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'RELEASED', 0}
end
return {'RELEASED', redis.call('DEL', KEYS[1])}
