"""`cluster-events dev`: the whole service on one machine, with three sample services."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from service.api.app import make_context
from service.api.context import ApiContext
from service.api.server import serving, serving_metrics
from service.auth import Role, issue
from service.monitor.process import monitoring
from service.run import stop_signal
from service.settings import PREFIX, Settings, load, read_text
from service.sockets import listen
from service.store.embedded import embedded
from service.text import stripped

SAMPLES = ("api", "compiler", "runner")
CHECK_INTERVAL = "2s"
"""Shorter than the default, so that a broken sample service is visible soon."""
CHECK_TIMEOUT = "1500ms"
"""Less than the interval, so that a check ends before the next one also if a service hangs."""
TOKEN_LIFETIME_S = 86_400.0
FIRST_EVENT_S = 10.0
"""Seconds to wait for the first event before the welcome text is printed."""


class Sample:
    """A sample service: it is healthy until `POST /break`, and again after `POST /mend`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.broken = False

    def app(self) -> web.Application:
        """The application with `GET /healthz`, `POST /break` and `POST /mend`."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_post("/break", self._break)
        app.router.add_post("/mend", self._mend)
        return app

    async def _healthz(self, _request: web.Request) -> web.Response:
        if self.broken:
            return web.json_response(
                {"status": "unhealthy", "error": f"the sample {self.name} was broken"}, status=503
            )
        return web.json_response({"status": "healthy"})

    async def _break(self, _request: web.Request) -> web.Response:
        self.broken = True
        return web.Response(text=f"{self.name} is broken\n")

    async def _mend(self, _request: web.Request) -> web.Response:
        self.broken = False
        return web.Response(text=f"{self.name} is mended\n")


async def dev(
    environ: Mapping[str, str],
    sock: socket.socket,
    data_dir: Path | None,
    say: Callable[[str], None],
) -> None:
    """Run the store, the sample services, the monitor and the API, until a signal.

    The API is served on the listening socket `sock`. The settings are those of `environ`, except
    for the store. `data_dir` must exist; without it the events are not kept. `say` prints the
    welcome text. Raises `SettingsError`, or `OSError` if `data_dir` or another port cannot be used.
    """
    host, port = sock.getsockname()[:2]
    stop = stop_signal()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded(data_dir))
        samples = await stack.enter_async_context(_samples())
        settings = _settings(environ, url, samples, data_dir, host)
        context = make_context(settings)
        await stack.enter_async_context(serving(context, sock))
        if settings.metrics_port is not None:
            metrics_sock = listen(settings.host, settings.metrics_port)
            await stack.enter_async_context(serving_metrics(context, metrics_sock))
        await stack.enter_async_context(monitoring(settings))
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        await _wait_for_first_event(context, stop)
        if stop.is_set():
            return
        token = issue(settings, "dev", Role.WRITE, TOKEN_LIFETIME_S)
        say(_welcome(address, token, samples, settings))
        await stop.wait()


def _settings(
    environ: Mapping[str, str],
    redis_url: str,
    samples: Mapping[str, str],
    data_dir: Path | None,
    host: str,
) -> Settings:
    defaults = {
        f"{PREFIX}SERVICES": ",".join(f"{name}={url}/healthz" for name, url in samples.items())
    }
    # With another interval, `CHECK_TIMEOUT` could be longer than it, which is invalid.
    if not environ.get(f"{PREFIX}CHECK_INTERVAL"):
        defaults |= {
            f"{PREFIX}CHECK_INTERVAL": CHECK_INTERVAL,
            f"{PREFIX}CHECK_TIMEOUT": CHECK_TIMEOUT,
        }
    if not any(environ.get(f"{PREFIX}{name}") for name in ("JWT_SECRET", "JWT_SECRET_FILE")):
        defaults[f"{PREFIX}JWT_SECRET"] = _secret(data_dir)
    return load({**defaults, **environ, f"{PREFIX}REDIS_URL": redis_url}, host=host)


def _secret(data_dir: Path | None) -> str:
    """A random secret. It is kept with the events, so that tokens stay valid after a restart."""
    secret = secrets.token_urlsafe(48)
    if data_dir is None:
        return secret
    file = data_dir / "jwt_secret"
    with contextlib.suppress(FileExistsError):
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(secret, encoding="ascii")
    return stripped(read_text(file))


@asynccontextmanager
async def _samples() -> AsyncIterator[Mapping[str, str]]:
    """Run the sample services, each on a free loopback port; yields their URLs by name."""
    async with AsyncExitStack() as stack:
        urls = {}
        for name in SAMPLES:
            runner = web.AppRunner(Sample(name).app(), access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            sock = listen("127.0.0.1", 0)
            await web.SockSite(runner, sock).start()
            urls[name] = f"http://127.0.0.1:{sock.getsockname()[1]}"
        yield urls


async def _wait_for_first_event(context: ApiContext, stop: asyncio.Event) -> None:
    """Wait until the first event is recorded, `FIRST_EVENT_S` are over, or `stop` is set."""
    with contextlib.suppress(TimeoutError):
        # The replica does not notify its listeners of the first snapshot, so it is polled.
        async with asyncio.timeout(FIRST_EVENT_S):
            while not stop.is_set() and (
                context.replica.snapshot is None or context.replica.snapshot.latest is None
            ):
                await asyncio.sleep(0.02)


def _welcome(address: str, token: str, samples: Mapping[str, str], settings: Settings) -> str:
    example = samples["compiler"]
    others = ", ".join(f"{name} {url}" for name, url in samples.items() if url != example)
    interval = f"{settings.check_interval:g} s"
    return f"""
cluster-events is running: {len(samples)} sample services, checked every {interval}. Ctrl-C ends it.

In another terminal (the token may write, and is valid for 24 h):

  export CLUSTER_EVENTS_URL={address}
  export CLUSTER_EVENTS_TOKEN={token}

Read the state of the platform:

  curl -s -H "Authorization: Bearer $CLUSTER_EVENTS_TOKEN" {address}/v0/cluster/events/latest
  .venv/bin/cluster-events health

Break a service, read the state again, mend the service:

  curl -X POST {example}/break
  curl -X POST {example}/mend

The other services: {others}
"""
