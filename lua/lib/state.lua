-- The states as they stand in a record, and the moves that are allowed: the twin of fairqued/state.py.
-- Only this file writes the state field of a record.
local state = {
  QUEUED = 'q', DEFERRED = 'd', SCHEDULED = 's', STARTED = 'r', FINISHED = 'f', FAILED = 'x', CANCELLED = 'c',
  ALL = 'qdsrfxc',
  FINAL = 'fxc',
  MOVES = 'qr qx qc dq ds dx dc sq sd sx sc rq rs rf rx rc xq xd cq cd',
}

function state.set(task, to)
  if not string.find(state.MOVES, task.state .. to, 1, true) then
    error('move ' .. task.state .. ' -> ' .. to .. ' is not allowed')
  end
  task.state = to
end

function state.is_final(task) return string.find(state.FINAL, task.state, 1, true) ~= nil end
