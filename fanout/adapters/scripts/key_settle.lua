-- Notes where the record of an idempotency key stands, if the key is still that message's.
-- ARGV: msgpack [ttl_ms]; id and offset + 1, 8 bytes each, big endian, as in the value.
if redis.call('GETRANGE', KEYS[1], 0, 7) == ARGV[2] then
    redis.call('SETRANGE', KEYS[1], 8, ARGV[3])
    redis.call('PEXPIRE', KEYS[1], cmsgpack.unpack(ARGV[1])[1])
end
return 0
