"""What the handlers of one API process share."""

from dataclasses import dataclass

from aiohttp import web

from service.api.answers import Answers
from service.api.siblings import Siblings
from service.auth import Authenticator
from service.observability import Metrics
from service.settings import Settings
from service.snapshot import Replica


@dataclass(slots=True)
class State:
    """One API process. `draining` is set when it has been told to stop: replies then end their connections."""

    settings: Settings
    replica: Replica
    authenticator: Authenticator
    answers: Answers
    metrics: Metrics
    draining: bool = False
    openapi: bytes = b""
    siblings: Siblings | None = None
    """The other workers on the same port, where there are some."""


STATE = web.AppKey("state", State)
