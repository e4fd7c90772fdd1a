-- Sets an app's policies where the version is still the one that the caller has read. KEYS[1]: base: ':versions' hash
-- app -> 'version logged', ':policies' hash app -> JSON. ARGV[1]: msgpack [app, previous, version]; ARGV[2]: the policies.
-- Returns 1, or 0 where another version stands.
local app, previous, version = unpack(cmsgpack.unpack(ARGV[1]))
local stored = redis.call('HGET', KEYS[1] .. ':versions', app)
local s_version, logged = string.match(stored or '0 0', '^(%d+) (%d+)$')
if tonumber(s_version) ~= previous then return 0 end
redis.call('HSET', KEYS[1] .. ':versions', app, string.format('%.0f %s', version, logged))
redis.call('HSET', KEYS[1] .. ':policies', app, ARGV[2])
return 1
