"""The framework alone, on uvloop: what it costs to send a body with nothing around it.

Usage: python -m tests.load.bare_aiohttp server|application PORT FILE, where FILE holds the body.
`server` is the low-level `web.Server`, `application` an application with one route.
"""

import asyncio
import sys
from pathlib import Path

import uvloop
from aiohttp import web

LATEST = "/v0/cluster/events/latest"


async def main(kind: str, port: int, body: bytes) -> None:
    """Serves the body until the process is ended."""

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    if kind == "server":
        runner: web.BaseRunner = web.ServerRunner(web.Server(answer, access_log=None))
    else:
        application = web.Application()
        application.router.add_get(LATEST, answer)
        runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes()))
