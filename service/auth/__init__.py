"""Authentication and authorisation: from a credential to a principal with a role.

Access is denied by default.
"""

from service.auth.api_keys import check_name, describe, mint
from service.auth.authenticator import Authenticator
from service.auth.failure_limiter import FailureLimiter
from service.auth.jwt import JwtVerifier, issue
from service.auth.principal import Principal, Role, parse_role

__all__ = [
    "Authenticator",
    "FailureLimiter",
    "JwtVerifier",
    "Principal",
    "Role",
    "check_name",
    "describe",
    "issue",
    "mint",
    "parse_role",
]
