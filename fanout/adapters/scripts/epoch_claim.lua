-- Takes a partition over. ARGV[1]: msgpack [log_end, wall_ms, fresh_epoch].
-- Returns {epoch, owner, highest, renewed 0 | 1, {app, msgpack {{offset, version, policies}, ...}, ...}}.
local log_end, wall_ms, fresh = unpack(cmsgpack.unpack(ARGV[1]))
local stored, kept = {}, {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
    stored[flat[i]] = flat[i + 1]
    local app = string.match(flat[i], '^policies:(.*)$')
    if app then kept[#kept + 1], kept[#kept + 2] = app, flat[i + 1] end
end
local epoch, owner, highest, renewed = stored.epoch, tonumber(stored.owner) or 0, tonumber(stored.highest) or 0, 0
owner = math.max(owner + 1, wall_ms)
if not epoch or log_end < highest then
    epoch, highest, renewed = fresh, 0, 1
    -- The records that brought them may be gone; what was set holds from the beginning.
    for i = 1, #kept, 2 do
        local all = cmsgpack.unpack(kept[i + 1])
        local newest = all[#all]
        kept[i + 1] = cmsgpack.pack({{-1, newest[2], newest[3]}})
        redis.call('HSET', KEYS[1], 'policies:' .. kept[i], kept[i + 1])
    end
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'owner', owner, 'highest', highest)
return {epoch, owner, highest, renewed, kept}
