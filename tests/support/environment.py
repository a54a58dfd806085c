"""The environment of the processes that tests start."""

import os

from service.settings import PREFIX


def inherited() -> dict[str, str]:
    """This process' environment without settings of the service: those of a developer do not
    reach a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def environment(**settings: str) -> dict[str, str]:
    """This process' environment with these settings of the service and no others."""
    return inherited() | {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
