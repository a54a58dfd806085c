"""A URL becomes a Redis client whose settings suit a service that must answer soon or say that it
cannot.

The reasons for the settings: redis-py retries ten times with 5 s time-outs by default, so one call
against a silent server takes a minute, and a command whose reply was lost runs twice; its pool
fails at once when it is used up; and its maintenance notifications switch off the check that an
idle connection is clean.
"""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

MAX_CONNECTIONS = 8
"""One heartbeat, one subscription, reads of full events, and recordings from outside: more would
only queue in Redis."""


def connect(url: str, timeout: float) -> "Redis":
    """A client for `redis://`, `rediss://` or `unix://`, on a pool of its own; it connects when
    first used.

    `timeout` (seconds) bounds the connection, each reply, and the wait for a free connection.
    Nothing is retried here: each caller knows whether its request may be sent twice.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        client_name="cluster-events",
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return Redis.from_pool(pool)
