-- A HASH of two fields: `m`, the packed header with user and queue, and `s`, the spec.
function layout.any(ids) return redis.call('EXISTS', unpack(keys_of(ids))) > 0 end

function layout.create(ids, tasks)
  for n, id in ipairs(ids) do redis.call('HSET', key(id), 'm', created(tasks[n]), 's', tasks[n].spec) end
end

function layout.take(ids, holder)
  local found, changed = {}, {}
  for n, id in ipairs(ids) do
    found[n] = redis.call('HMGET', key(id), 'm', 's')
    changed[n] = with_taken(found[n][1], holder)
  end
  for n, id in ipairs(ids) do redis.call('HSET', key(id), 'm', changed[n]) end
  return found
end

function layout.settle(ids, fences)
  local changed, moved = {}, 0
  for n, id in ipairs(ids) do changed[n] = with_settled(redis.call('HGET', key(id), 'm'), fences[n]) end
  for n, id in ipairs(ids) do
    if changed[n] then
      redis.call('HSET', key(id), 'm', changed[n])
      moved = moved + 1
    end
  end
  return moved
end
