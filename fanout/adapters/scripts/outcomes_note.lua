-- Notes outcomes of one shard of an app. KEYS[1]: base of its keys: ':all' hash id -> outcome, ':order' the ids by time.
-- ARGV[1]: msgpack [expected 0 | 1, ttl_ms, max, {id, at_ms, ...}]; then the outcomes. Expected ones give way to those that
-- stand; others replace them: a replay brings the same.
local expected, ttl, max, flat = unpack(cmsgpack.unpack(ARGV[1]))
local all, order = KEYS[1] .. ':all', KEYS[1] .. ':order'
local newest = 0
for i = 1, #flat, 2 do
    local id, at_ms, outcome = flat[i], flat[i + 1], ARGV[1 + (i + 1) / 2]
    if expected == 0 or redis.call('HEXISTS', all, id) == 0 then
        redis.call('HSET', all, id, outcome)
        redis.call('ZADD', order, at_ms, id)
    end
    newest = math.max(newest, at_ms)
end

local function forget(ids)
    for i = 1, #ids do
        redis.call('HDEL', all, ids[i])
        redis.call('ZREM', order, ids[i])
    end
end
forget(redis.call('ZRANGEBYSCORE', order, '-inf', string.format('(%.0f', newest - ttl)))
forget(redis.call('ZRANGE', order, 0, -max - 1))
redis.call('PEXPIRE', all, ttl)
redis.call('PEXPIRE', order, ttl)
return 0
