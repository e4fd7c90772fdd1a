-- Raises the highest offset seen. ARGV[1]: msgpack [owner, highest, told].
-- Returns 0; the stored owner when that is higher; -1 when the claim is lost (the store was emptied); -2 when the store
-- has forgotten what it was told (it failed over to older data).
local owner, highest, told = unpack(cmsgpack.unpack(ARGV[1]))
local stored = redis.call('HMGET', KEYS[1], 'owner', 'highest')
local s_owner = tonumber(stored[1])
if not s_owner then return -1 end
if s_owner > owner then return s_owner end
if tonumber(stored[2]) < told then return -2 end
redis.call('HSET', KEYS[1], 'owner', owner, 'highest', math.max(highest, tonumber(stored[2])))
return 0
