-- Takes a partition over. ARGV[1]: msgpack [log_end, wall_ms, fresh_epoch]. Returns {epoch, owner, highest, renewed 0 | 1}.
local log_end, wall_ms, fresh = unpack(cmsgpack.unpack(ARGV[1]))
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'highest')
local epoch, owner, highest, renewed = stored[1], tonumber(stored[2]) or 0, tonumber(stored[3]) or 0, 0
owner = math.max(owner + 1, wall_ms)
if not epoch or log_end < highest then
    epoch, highest, renewed = fresh, 0, 1
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'owner', owner, 'highest', highest)
return {epoch, owner, highest, renewed}
