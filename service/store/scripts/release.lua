-- Releases the lease, so that another monitor need not wait until it expires. The lease of another owner is not touched.
--
-- KEYS  leader
-- ARGV  the owner
-- Reply {'RELEASED', 1 if the owner had the lease, else 0}

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'RELEASED', 0}
end
return {'RELEASED', redis.call('DEL', KEYS[1])}
