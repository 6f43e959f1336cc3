-- started -> finished. ARGV from 3: id and fence of each task. Returns how many moved; the others had been before.
local ids, fences = {}, {}
for i = 3, #ARGV, 2 do
  ids[#ids + 1], fences[#fences + 1] = ARGV[i], tonumber(ARGV[i + 1])
end
return layout.settle(ids, fences)
