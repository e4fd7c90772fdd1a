-- Returns {app, 'version logged', ...} of all apps that have set something. KEYS[1]: base, see config_put.lua.
return redis.call('HGETALL', KEYS[1] .. ':versions')
