-- Renews or releases. ARGV[1]: msgpack [number, generation, holder, address, ttl_ms, used_ms]; ttl_ms 0
-- releases. A renewal raises used_ms, a release sets it (-1 leaves it).
-- Returns 1, or 0 when a higher generation holds the number (a renewal leaves its used_ms to that one all the same). A lease
-- that the store has lost stands again by renewal.
local number, generation, holder, address, ttl_ms, used = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local stored = redis.call('HGET', KEYS[1], number)
local lease = stored and cmsgpack.unpack(stored) or {}
local s_generation, s_used = lease[1], lease[5] or 0
redis.call('SET', KEYS[1] .. ':born', now, 'NX')
if s_generation and s_generation > generation then
    if ttl_ms > 0 and used > s_used then
        lease[5] = used
        redis.call('HSET', KEYS[1], number, cmsgpack.pack(lease))
    end
    return 0
end
if ttl_ms == 0 and s_generation ~= generation then return 0 end
if used < 0 or ttl_ms > 0 then used = math.max(used, s_used) end
redis.call('HSET', KEYS[1], number, cmsgpack.pack({generation, now + ttl_ms, holder, address, used}))
return 1
