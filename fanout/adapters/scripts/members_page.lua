-- Returns {user, joined, ..., user of the next page | nothing}: up to `limit` members from `start` on.
-- ARGV[1]: msgpack [start, limit].
local start, limit = unpack(cmsgpack.unpack(ARGV[1]))
local users = redis.call('ZRANGEBYLEX', KEYS[1] .. ':order', start == '' and '-' or '[' .. start, '+', 'LIMIT', 0, limit + 1)
local page = {}
for i = 1, math.min(#users, limit) do
    page[#page + 1] = users[i]
    page[#page + 1] = redis.call('HGET', KEYS[1] .. ':all', users[i])
end
if #users > limit then page[#page + 1] = users[limit + 1] end
return page
