"""Re-reads the files of JWT secrets and public keys: a rotated secret needs no restart.

The files are polled. Kubernetes replaces mounted secrets by switching symbolic links, and many file
systems send no notification of that.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from service.errors import SettingsError
from service.settings import Settings, reread
from service.tasks import cancel_and_wait, spawn_guarded

log = logging.getLogger(__name__)

_SETTLE_S = 0.2
"""Seconds between two reads that must be equal: a file that is being written would differ."""


@asynccontextmanager
async def watch_secrets(
    settings: Settings, reload: Callable[[Settings], None]
) -> AsyncIterator[None]:
    """Call `reload` with new settings whenever the secrets in the files change.

    If `reload` raises `SettingsError`, the error is logged and the previous secrets stay in use.
    """
    if not settings.jwt_secret_files:
        yield
        return
    task = spawn_guarded(_watch(settings, reload), "secret-files")
    try:
        yield
    finally:
        await cancel_and_wait(task)


async def _watch(current: Settings, reload: Callable[[Settings], None]) -> None:
    logged_problems: tuple[str, ...] = ()
    while True:
        await asyncio.sleep(current.secrets_refresh)
        try:
            changed = await asyncio.to_thread(reread, current)
            if _secrets(changed) == _secrets(current):
                logged_problems = ()
                continue
            await asyncio.sleep(_SETTLE_S)
            settled = await asyncio.to_thread(reread, current)
            if _secrets(settled) != _secrets(changed):
                continue
            reload(settled)
        except SettingsError as error:
            # The same problems are logged once, not at every read.
            if error.problems != logged_problems:
                # No traceback: its source lines and values could contain parts of a secret.
                log.error(  # noqa: TRY400
                    "ignored invalid secret file, keeping the previous keys",
                    extra={"problems": "; ".join(error.problems)},
                )
            logged_problems = error.problems
            continue
        current, logged_problems = settled, ()
        log.info("loaded new secrets", extra={"from": ", ".join(current.jwt_secret_files)})


def _secrets(settings: Settings) -> tuple[object, ...]:
    return settings.jwt_secret, settings.jwt_public_key
