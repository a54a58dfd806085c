-- Gives each request a header line of its own. Arguments: the line with one number in it, as string.format takes it, and the
-- number to begin after.
local head, line, number

function init(args)
   head = wrk.format():sub(1, -3)
   line = args[1] .. "\r\n\r\n"
   number = tonumber(args[2])
end

function request()
   number = number + 1
   return head .. string.format(line, number)
end
