-- Writes changes of one room shard. KEYS[1]: base of its keys: ':all' hash user -> Joined, ':order' the users for pages
-- (a sorted set of equal scores is ordered by bytes), ':applied'. ARGV[1]: msgpack [applied, {user, joined true | left false, ...}];
-- then the Joined of those that joined.
local applied, changes = unpack(cmsgpack.unpack(ARGV[1]))
local next_joined = 2
local all, order, mark = KEYS[1] .. ':all', KEYS[1] .. ':order', KEYS[1] .. ':applied'
if applied <= (tonumber(redis.call('GET', mark)) or 0) then return 0 end
redis.call('SET', mark, applied)
for i = 1, #changes, 2 do
    local user = changes[i]
    if changes[i + 1] then
        redis.call('HSET', all, user, ARGV[next_joined])
        next_joined = next_joined + 1
        redis.call('ZADD', order, 0, user)
    else
        redis.call('HDEL', all, user)
        redis.call('ZREM', order, user)
    end
end
return 1
