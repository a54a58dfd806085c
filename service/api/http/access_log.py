"""The access log: one line for each request, where `ACCESS_LOG` is on."""

import logging

access_log = logging.getLogger("service.access")


def log_access(method: str, path: str, status: int, remote: str | None) -> None:
    """One line for one request: the route's template, never the raw path."""
    access_log.info(
        "request", extra={"method": method, "route": path, "status": status, "remote": remote}
    )
