-- Returns {now_ms, {number, lease, ...}}; the caller leaves out what has expired.
local time = redis.call('TIME')
return {tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), redis.call('HGETALL', KEYS[1])}
