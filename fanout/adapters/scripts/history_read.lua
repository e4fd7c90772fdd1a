-- Reads a room: its meta, and entries beyond a position merged from both streams by offset.
-- KEYS[1]: base of the room's keys. ARGV[1]: msgpack [after, limit, bytes_max, reverse, now_ms, with_state, with_keyed].
-- Returns nil for an unknown room, else
-- {head, last, floor, n, applied, owner, state, {keyed member, at_ms, ...}, {encoded, ...}, truncated 0 | 1}.
local after, limit, bytes_max, reverse, now, with_state, with_keyed = unpack(cmsgpack.unpack(ARGV[1]))
local meta = redis.call('HMGET', KEYS[1] .. ':meta', 'head', 'last', 'floor', 'n', 'applied', 'owner', 'rel_ttl', 'rec_ttl')
if not meta[1] then return nil end
local PAGE = 64

local function offset_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
local function id(offset) return string.format('%.0f-0', offset) end

-- Returns the oldest entry that has not expired. Times rise with offsets, so bisecting finds it in some 30 steps.
local function oldest_live(key, ttl)
    local oldest_ms = now - ttl
    local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    if not first or tonumber(first[2][4]) >= oldest_ms then return first end
    local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    if tonumber(newest[2][4]) < oldest_ms then return nil end
    local low, high = offset_of(first), offset_of(newest)
    while high - low > 1 do
        local middle = math.floor((low + high) / 2)
        local entry = redis.call('XRANGE', key, id(middle), '+', 'COUNT', 1)[1]
        if tonumber(entry[2][4]) < oldest_ms then low = offset_of(entry) else high = middle end
    end
    return redis.call('XRANGE', key, id(high), '+', 'COUNT', 1)[1]
end

-- Returns a function that gives the live entries of a stream one by one.
local function walk(key, first)
    if not first then return function() return nil end end
    local live = offset_of(first)
    local page, index, done, position = {}, 0, false, nil
    if reverse == 0 then position = math.max(after + 1, live) else position = after > 0 and id(after - 1) or '+' end
    if reverse == 1 and after > 0 and after - 1 < live then done = true end
    return function()
        index = index + 1
        if index > #page then
            if done then return nil end
            if reverse == 0 then
                page = redis.call('XRANGE', key, id(position), '+', 'COUNT', PAGE)
            else
                page = redis.call('XREVRANGE', key, position, id(live), 'COUNT', PAGE)
            end
            index, done = 1, #page < PAGE
            if #page == 0 then return nil end
            local last = offset_of(page[#page])
            if reverse == 0 then
                position = last + 1
            elseif last - 1 < live then
                done = true
            else
                position = id(last - 1)
            end
        end
        return page[index]
    end
end

local rel_first = oldest_live(KEYS[1] .. ':rel', tonumber(meta[7]))
local last = tonumber(meta[2])
local floor = math.max(tonumber(meta[3]), rel_first and tonumber(rel_first[2][2]) or last)

local entries, truncated = {}, 0
if limit > 0 then
    local next_rel = walk(KEYS[1] .. ':rel', rel_first)
    local next_rec = walk(KEYS[1] .. ':rec', oldest_live(KEYS[1] .. ':rec', tonumber(meta[8])))
    local rel, rec, bytes = next_rel(), next_rec(), 0
    while rel or rec do
        local take_rel = rel and (not rec or (offset_of(rel) < offset_of(rec)) == (reverse == 0))
        local encoded = (take_rel and rel or rec)[2][6]
        bytes = bytes + #encoded
        if #entries >= limit or (#entries > 0 and bytes > bytes_max) then
            truncated = 1
            break
        end
        entries[#entries + 1] = encoded
        if take_rel then rel = next_rel() else rec = next_rec() end
    end
end

local state = with_state == 1 and redis.call('HGET', KEYS[1] .. ':meta', 'state') or ''
local keyed = with_keyed == 1 and redis.call('ZRANGE', KEYS[1] .. ':keyed', 0, -1, 'WITHSCORES') or {}
return {tonumber(meta[1]), last, floor, tonumber(meta[4]), tonumber(meta[5]), tonumber(meta[6]), state, keyed, entries, truncated}
