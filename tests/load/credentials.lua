-- Sends each token in turn. Argument: a file with one token a line.
local requests, number = {}, 0

function init(args)
   for token in io.lines(args[1]) do
      wrk.headers["Authorization"] = "Bearer " .. token
      requests[#requests + 1] = wrk.format()
   end
end

function request()
   number = number % #requests + 1
   return requests[number]
end
