-- Sends each token in turn, in the same bytes in every run. Argument: a file with one token a line.
local requests, number = {}, 0
local head = "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n\r\n"

function init(args)
   for token in io.lines(args[1]) do
      requests[#requests + 1] = string.format(head, wrk.path, token)
   end
end

function request()
   number = number % #requests + 1
   return requests[number]
end
