"""The access log: one line for each request, if `ACCESS_LOG` is on."""

import logging

access_log = logging.getLogger("service.access")


def log_access(method: str, path: str, status: int, remote: str | None) -> None:
    """Logs a request. `path` is the route's template, never the raw path."""
    access_log.info(
        "request", extra={"method": method, "route": path, "status": status, "remote": remote}
    )
