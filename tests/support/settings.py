"""Settings and credentials of the tests."""

from typing import Any

from service.auth import Role, issue
from service.settings import PREFIX, Settings, load

JWT_SECRET = "a secret that only tests know, long enough for HS512 which wants 64 bytes"


def make_settings(**values: Any) -> Settings:
    """Settings for tests: `make_settings(retention_events=5)` stands for
    CLUSTER_EVENTS_RETENTION_EVENTS=5."""
    defaults = {"jwt_secret": JWT_SECRET, "drain": "0"}
    environ = {
        f"{PREFIX}{name.upper()}": str(value)
        for name, value in (defaults | values).items()
        if value is not None
    }
    return load(environ)


def make_token(role: Role = Role.READ, lifetime_s: float = 60, **settings: Any) -> str:
    """A valid JWT of that role."""
    return issue(make_settings(**settings), "a test", role, lifetime_s)


def bearer(token: str) -> dict[str, str]:
    """The header field for a token."""
    return {"Authorization": f"Bearer {token}"}


READ = bearer(make_token(Role.READ, 3_600))
WRITE = bearer(make_token(Role.WRITE, 3_600))
