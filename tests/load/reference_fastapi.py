"""The reference: the service that someone would write in a day, with FastAPI, uvicorn, redis-py and
PyJWT.

It does what its documentation would suggest: the credential is verified and Redis is read at each
request, both without blocking; events are kept as finished JSON, newest first, and are sent as they
are. Nothing in it is slower than it needs to be.

Settings from the environment: `REDIS_URL`, `JWT_SECRET`.
Run: uvicorn tests.load.reference_fastapi:app --loop uvloop --http httptools --no-access-log
"""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# FastAPI is there when the benchmark runs, not when the code is checked.

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.asyncio import Redis

EVENTS = "reference:events"
"""A list of events as JSON, newest first."""

bearer = HTTPBearer()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keeps a pool of connections to Redis while the application runs."""
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        app.state.redis = redis
        app.state.secret = os.environ["JWT_SECRET"]
        yield


async def reader(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]
) -> None:
    """Lets those pass whose token may read. A coroutine, so that it does not take a thread."""
    try:
        claims = jwt.decode(credentials.credentials, request.app.state.secret, algorithms=["HS256"])
    except jwt.PyJWTError as error:
        raise HTTPException(401, "authentication failed", {"WWW-Authenticate": "Bearer"}) from error
    if claims.get("role", "read") not in {"read", "write"}:
        raise HTTPException(403, "insufficient permissions")


app = FastAPI(title="Cluster events, the reference", lifespan=lifespan)


@app.get("/v0/cluster/events", dependencies=[Depends(reader)])
async def list_events(request: Request) -> Response:
    """All events, newest first."""
    events = await request.app.state.redis.lrange(EVENTS, 0, -1)
    return Response(b"[" + b",".join(events) + b"]", media_type="application/json")


@app.get("/v0/cluster/events/latest", dependencies=[Depends(reader)])
async def latest(request: Request) -> Response:
    """The newest event."""
    event = await request.app.state.redis.lindex(EVENTS, 0)
    if event is None:
        raise HTTPException(404, "there is no event yet")
    return Response(event, media_type="application/json")
