-- Keeps the policies that a record brought. ARGV[1]: msgpack [owner, app, offset, version, kept_max]; ARGV[2]: the policies.
-- Returns 0; the stored owner when that is higher; -1 when the claim is lost (the store was emptied).
local owner, app, offset, version, kept_max = unpack(cmsgpack.unpack(ARGV[1]))
local field = 'policies:' .. app
local stored = redis.call('HMGET', KEYS[1], 'owner', 'highest', field)
local s_owner, highest = tonumber(stored[1]), tonumber(stored[2])
if not s_owner then return -1 end
if s_owner > owner then return s_owner end
local all = stored[3] and cmsgpack.unpack(stored[3]) or {}
local there = false
for _, at in ipairs(all) do there = there or at[1] == offset end
if not there then all[#all + 1] = {offset, version, ARGV[2]} end
table.sort(all, function(one, other) return one[1] < other[1] end)
local first = math.max(1, #all - kept_max + 1)
for i = first, #all do
    if all[i][1] < highest then first = i end
end
local kept = {}
for i = first, #all do kept[#kept + 1] = all[i] end
redis.call('HSET', KEYS[1], field, cmsgpack.pack(kept))
return 0
