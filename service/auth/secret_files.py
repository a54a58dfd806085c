"""Secrets in files, read again while the service runs: a rotated secret needs no restart.

The files are read, not watched: mounted secrets change by a switch of links, which notifications
miss on many file systems.
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
"""A file that reads the same after this time is not in the middle of being written."""


@asynccontextmanager
async def watch_secrets(
    settings: Settings, renew: Callable[[Settings], None]
) -> AsyncIterator[None]:
    """Inside it, `renew` gets new settings when the files of JWT secrets or public keys say
    something new.

    What `renew` refuses with `SettingsError` is logged, and the old secrets stay.
    """
    if not settings.jwt_secret_files:
        yield
        return
    task = spawn_guarded(_watch(settings, renew), "secret-files")
    try:
        yield
    finally:
        await cancel_and_wait(task)


async def _watch(current: Settings, renew: Callable[[Settings], None]) -> None:
    told: tuple[str, ...] = ()
    while True:
        await asyncio.sleep(current.secrets_refresh)
        try:
            found = await asyncio.to_thread(reread, current)
            if _material(found) == _material(current):
                told = ()
                continue
            await asyncio.sleep(_SETTLE_S)
            again = await asyncio.to_thread(reread, current)
            if _material(again) != _material(found):
                continue
            renew(again)
        except SettingsError as error:
            if error.problems != told:
                # Without the traceback, whose lines might show what the problems' words do not.
                log.error(  # noqa: TRY400
                    "new secrets are unfit; the old ones stay",
                    extra={"problems": "; ".join(error.problems)},
                )
            told = error.problems
            continue
        current, told = again, ()
        log.info("new secrets have been taken", extra={"from": ", ".join(current.jwt_secret_files)})


def _material(settings: Settings) -> tuple[object, ...]:
    return settings.jwt_secret, settings.jwt_public_key
