-- Stores all that one poll changes in one room, in one step. The twin of these rules is adapters/memory_store.py.
-- KEYS[1]: base of the room's keys (one hash tag). ARGV[1]: msgpack array, see adapters/redis.py `_batch`; ARGV[2]: state;
-- then the encoded entries, the members of the keyed set, the openings of the ledger. (Redis's cmsgpack knows no binary strings.)
-- Returns 0, or the stored owner generation when that is higher than the batch's (the batch is fenced).
local owner, head, last, n, applied, now, rel_max, rel_ttl, rec_max, rec_ttl, entries, keyed_ms, meta_ttl, key_ttl, key_max, openings =
    unpack(cmsgpack.unpack(ARGV[1]))
local meta_key, rel_key, rec_key, keyed_key = KEYS[1] .. ':meta', KEYS[1] .. ':rel', KEYS[1] .. ':rec', KEYS[1] .. ':keyed'

local stored = redis.call('HMGET', meta_key, 'owner', 'head', 'last', 'floor', 'applied')
local s_owner, s_head, s_last = tonumber(stored[1]), tonumber(stored[2]), tonumber(stored[3])
local floor, s_applied = tonumber(stored[4]), tonumber(stored[5])
if not s_owner then
    -- Streams may outlive an evicted meta; their ids would be in the way.
    redis.call('UNLINK', rel_key, rec_key, keyed_key)
    s_owner, s_head, s_last, floor, s_applied = 0, 0, -1, 0, -1
elseif s_owner > owner then
    return s_owner
end

local rel_added, rec_added = false, false
for i = 1, #entries do
    local offset, kind, prev, at_ms = unpack(entries[i])
    if offset > s_head then
        local id = string.format('%.0f-0', offset)
        if kind == 0 then
            if prev ~= s_last then floor = prev end
            redis.call('XADD', rel_key, id, 'p', prev, 't', at_ms, 'e', ARGV[2 + i])
            s_last, rel_added = offset, true
        else
            redis.call('XADD', rec_key, id, 'p', prev, 't', at_ms, 'e', ARGV[2 + i])
            rec_added = true
        end
        s_head = offset
    end
end
-- Reliable entries that never came here: the chain is cut before them.
if last > s_last then s_last, floor = last, last end
s_head = math.max(s_head, head, s_last)

-- Drops what is beyond count (looked at when there are new entries) and age; returns the oldest entry left.
local function trim(key, max, ttl, added)
    if added then
        redis.call('XTRIM', key, 'MAXLEN', '=', max)
        redis.call('PEXPIRE', key, ttl + key_ttl)
    end
    local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    while oldest and tonumber(oldest[2][4]) < now - ttl do
        redis.call('XDEL', key, oldest[1])
        oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    end
    return oldest
end
local oldest = trim(rel_key, rel_max, rel_ttl, rel_added)
floor = math.max(floor, oldest and tonumber(oldest[2][2]) or s_last)
trim(rec_key, rec_max, rec_ttl, rec_added)

-- Nobody goes back: an old owner's last word may be further than its successor, and positions, count and state are loaded
-- together. All owners decide alike, so the further one is right.
redis.call('HSET', meta_key, 'owner', owner, 'head', s_head, 'last', s_last, 'floor', floor, 'rel_ttl', rel_ttl, 'rec_ttl', rec_ttl)
if applied >= s_applied then
    redis.call('HSET', meta_key, 'n', n, 'applied', applied, 'state', ARGV[2])
    for i = 1, #openings do redis.call('HSET', meta_key, openings[i], ARGV[2 + #entries + #keyed_ms + i]) end
end
redis.call('PEXPIRE', meta_key, math.max(rel_ttl, rec_ttl) + meta_ttl)

if #keyed_ms > 0 then
    for i = 1, #keyed_ms do redis.call('ZADD', keyed_key, keyed_ms[i], ARGV[2 + #entries + i]) end
    redis.call('ZREMRANGEBYSCORE', keyed_key, '-inf', string.format('(%.0f', now - key_ttl))
    redis.call('ZREMRANGEBYRANK', keyed_key, 0, -key_max - 1)
    redis.call('PEXPIRE', keyed_key, math.max(rel_ttl, rec_ttl) + meta_ttl)
end
return 0
