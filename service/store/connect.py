"""Creates the Redis client, with settings for a service that must answer or fail fast.

redis-py's defaults do not suit: it retries ten times with timeouts of 5 s, so that one call to a
silent server takes a minute, and a command whose reply was lost runs twice; its pool raises at once
when all connections are in use; and its maintenance notifications disable the check that an idle
connection has no unread data.
"""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

MAX_CONNECTIONS = 8
"""Connections of one process: for the heartbeat, the subscription, full events and appends. More of
them would only move the queue into Redis."""


def connect(url: str, timeout: float) -> "Redis":
    """A client for `redis://`, `rediss://` or `unix://` with its own pool.

    It connects at its first use. `timeout` (seconds) bounds connecting, each reply, and the wait
    for a free connection. Nothing is retried here: only the caller knows whether a request may be
    sent twice.
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
