-- Notes that a version of an app's policies is on all partitions. KEYS[1]: base, see config_put.lua.
-- ARGV[1]: msgpack [app, version]. Returns 0.
local app, version = unpack(cmsgpack.unpack(ARGV[1]))
local stored = redis.call('HGET', KEYS[1] .. ':versions', app)
if stored then
    local s_version, logged = string.match(stored, '^(%d+) (%d+)$')
    redis.call('HSET', KEYS[1] .. ':versions', app, string.format('%s %.0f', s_version, math.max(tonumber(logged), version)))
end
return 0
