-- Returns {'version logged', policies} of an app, or nil. KEYS[1]: base, see config_put.lua. ARGV[1]: msgpack [app].
local app = cmsgpack.unpack(ARGV[1])[1]
local stored = redis.call('HGET', KEYS[1] .. ':versions', app)
if not stored then return nil end
return {stored, redis.call('HGET', KEYS[1] .. ':policies', app)}
