-- One string: the fixed header, user, queue, spec. A move rewrites the header in place.
function layout.any(ids) return redis.call('EXISTS', unpack(keys_of(ids))) > 0 end

function layout.create(ids, tasks)
  local flat = {}
  for n, id in ipairs(ids) do flat[2 * n - 1], flat[2 * n] = key(id), created(tasks[n]) .. tasks[n].spec end
  redis.call('MSET', unpack(flat))
end

function layout.take(ids, holder)
  local keys, headers = keys_of(ids), {}
  local found = redis.call('MGET', unpack(keys))
  for n, raw in ipairs(found) do headers[n] = taken(raw, holder) end
  for n, where in ipairs(keys) do redis.call('SETRANGE', where, 0, headers[n]) end
  return found
end

function layout.read_headers(keys)
  local found = {}
  for n, where in ipairs(keys) do found[n] = redis.call('GETRANGE', where, 0, HEADER - 1) end
  return found
end

function layout.settle(ids, fences)
  local keys, headers, moved = keys_of(ids), {}, 0
  for n, raw in ipairs(layout.read_headers(keys)) do headers[n] = settled(raw, fences[n]) end
  for n, where in ipairs(keys) do
    if headers[n] then
      redis.call('SETRANGE', where, 0, headers[n])
      moved = moved + 1
    end
  end
  return moved
end
