-- Leases the number that has been free longest; never leased comes first. KEYS[1]: hash number -> msgpack
-- [generation, expires_ms, holder, address, used_ms]. ARGV[1]: msgpack [size, holder, address, wall_ms, ttl_ms].
-- KEYS[1] .. ':born': since when this server knows the pool.
-- Returns {number, generation, expires_ms, used_ms, pool_age_ms}, or nil when all are taken. The clock is this server's.
local size, holder, address, wall_ms, ttl_ms = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local held = {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do held[tonumber(flat[i])] = flat[i + 1] end
local number, free, generation, used = nil, nil, 0, 0
for candidate = 0, size - 1 do
    local lease = held[candidate] and cmsgpack.unpack(held[candidate])
    local expires = lease and lease[2] or 0
    if expires <= now and (not free or expires < free) then
        number, free = candidate, expires
        generation, used = lease and lease[1] + 1 or 0, lease and lease[5] or 0
    end
end
if not number then return nil end
generation = math.max(generation, wall_ms)
redis.call('HSET', KEYS[1], number, cmsgpack.pack({generation, now + ttl_ms, holder, address, used}))
local born = KEYS[1] .. ':born'
redis.call('SET', born, now, 'NX')
return {number, generation, now + ttl_ms, used, now - tonumber(redis.call('GET', born))}
