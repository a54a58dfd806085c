"""Every error that the service knows, and the one body in which the API tells it.

    ClusterEventsError
    ├── SettingsError                          wrong settings; the commands exit with 2
    └── ApiError                               an HTTP status, an `error_code`, a message, details
        ├── BadMessage, UriTooLong, HeadersTooLarge, MisdirectedRequest, NotImplemented, VersionNotSupported
        ├── RequestTimeout, UnmetExpectation, UnsupportedMediaType
        ├── InvalidUuidParam, InvalidQueryParam, InvalidEvent, NotAcceptable
        ├── AuthenticationFailed, SigningKeysUnavailable, InsufficientPermissions, TooManyRequests
        ├── UnknownClusterMonitorEvent, NoClusterMonitorEventsAvailable, UnknownEndpoint, MethodNotAllowed
        ├── InvalidApiKey, UnknownApiKey, DuplicateName, EventConflict, PayloadTooLarge
        └── InternalError, ClusterMonitoringDisabled, StoreUnavailable, ServerBusy

The names of the `ApiError` classes *are* the `error_code`s of the contract (DESIGN, section 3).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import orjson


class ClusterEventsError(Exception):
    """The root of every error raised on purpose here."""


class SettingsError(ClusterEventsError):
    """Settings that cannot be used: one line per problem, naming the variable and what would be
    right."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ApiError(ClusterEventsError):
    """An error with its HTTP form: `{"message", "error_code", "details"}`, and no other.

    `headers` go out with the answer; `close` ends the connection after it, for requests after which
    the byte stream cannot be trusted.
    """

    status: ClassVar[int]
    close: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    @property
    def error_code(self) -> str:
        """The CamelCase code of the contract."""
        return type(self).__name__

    def body(self) -> bytes:
        """The JSON bytes of this error."""
        return orjson.dumps(
            {"message": self.message, "error_code": self.error_code, "details": self.details}
        )


def cut(value: str, limit: int = 100) -> str:
    """At most `limit` characters of a value that a client sent, safe to repeat in JSON."""
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


class BadMessage(ApiError):
    """Bytes that are not a well-formed HTTP request (RFC 9112)."""

    status = 400
    close = True

    def __init__(self) -> None:
        super().__init__("The request is not well-formed HTTP/1.1.")


class VersionNotSupported(ApiError):
    """A request in a version of HTTP other than 1.0 and 1.1."""

    status = 505
    close = True

    def __init__(self) -> None:
        super().__init__("Only HTTP/1.1 and HTTP/1.0 are spoken here.")


class UriTooLong(ApiError):
    """A request target longer than any path of this API (RFC 9110, section 15.5.15)."""

    status = 414
    close = True

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The request target exceeds {limit_bytes:,} bytes.", {"limit_bytes": limit_bytes}
        )


class HeadersTooLarge(ApiError):
    """A header field, all header fields together, or their number exceed a limit (RFC 6585, section
    5)."""

    status = 431
    close = True

    @classmethod
    def together(cls, limit_bytes: int) -> Self:
        """All header fields together are larger than any agent needs."""
        return cls(
            f"The header fields exceed {limit_bytes:,} bytes together.",
            {"limit_bytes": limit_bytes},
        )

    @classmethod
    def one_field(cls, limit_bytes: int) -> Self:
        """One header field is too large."""
        return cls(f"A header field exceeds {limit_bytes:,} bytes.", {"limit_bytes": limit_bytes})

    @classmethod
    def too_many(cls, limit_fields: int) -> Self:
        """There are too many header fields."""
        return cls(
            f"The request has more than {limit_fields} header fields.",
            {"limit_fields": limit_fields},
        )


class MisdirectedRequest(ApiError):
    """With `AUTH=none`: a `Host` that is not one of ours (RFC 9110, section 15.5.20); keeps DNS
    rebinding out."""

    status = 421

    def __init__(self, host: str) -> None:
        message = f"This service does not answer for the host '{cut(host)}': see CLUSTER_EVENTS_ALLOWED_HOSTS."
        super().__init__(message, {"host": cut(host)})


class NotImplemented(ApiError):  # noqa: A001  # The name is the contract's error code; nothing here uses the builtin.
    """A transfer coding other than `chunked` (RFC 9112, section 6.1)."""

    status = 501
    close = True

    def __init__(self) -> None:
        super().__init__("Of all transfer codings only `chunked` is implemented.")


class RequestTimeout(ApiError):
    """A body that was announced and did not come in time."""

    status = 408
    close = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request's body did not arrive within {seconds:g} seconds.")


class UnmetExpectation(ApiError):
    """An `Expect` field other than `100-continue` (RFC 9110, section 10.1.1)."""

    status = 417
    close = True

    def __init__(self) -> None:
        super().__init__("Of all expectations only `100-continue` is known here.")


class NotAcceptable(ApiError):
    """The client refuses the plain body, and takes no coding that there is (RFC 9110, section
    12.5.3)."""

    status = 406

    def __init__(self, codings: Sequence[str]) -> None:
        super().__init__(
            f"Accept one of these content codings: {', '.join(codings)}.",
            {"codings": list(codings)},
        )


class UnsupportedMediaType(ApiError):
    """A body in a content coding: it is refused rather than inflated."""

    status = 415
    close = True

    def __init__(self) -> None:
        super().__init__("Send the body without a Content-Encoding.")


class PayloadTooLarge(ApiError):
    """A body larger than the route can need."""

    status = 413
    close = True

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The request's body exceeds {limit_bytes} bytes.", {"limit_bytes": limit_bytes}
        )


class InvalidUuidParam(ApiError):
    """An event id that is neither `latest` nor a UUID."""

    status = 400

    def __init__(self, value: str) -> None:
        error = "expected `latest` or a UUID"
        super().__init__(
            f"Invalid event id '{cut(value)}': {error}.", {"value": cut(value), "error": error}
        )


class InvalidQueryParam(ApiError):
    """A query parameter whose value is not one of those that the route takes."""

    status = 400

    def __init__(self, param: str, value: str, error: str) -> None:
        details = {"param": param, "value": cut(value), "error": error}
        super().__init__(f"Invalid query parameter '{param}': {error}.", details)


class InvalidEvent(ApiError):
    """A POST body that is not an event; every field at fault is named."""

    status = 400

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        listed = [{"field": cut(field), "error": error} for field, error in errors]
        super().__init__("The body is not a cluster monitor event.", {"errors": listed})


class AuthenticationFailed(ApiError):
    """No credential, or one that is bad, expired or revoked: deliberately one text for all (RFC
    6750, section 3).

    `why` and `who` are for the audit log alone: the reason in fixed words, and the key id or the
    subject of a token with a true signature.
    """

    status = 401

    def __init__(self, why: str = "not a credential", who: str | None = None) -> None:
        message = "Authentication failed: send a valid `Authorization: Bearer <JWT or API key>`."
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})
        self.why = why
        self.who = who


class SigningKeysUnavailable(ApiError):
    """A JWT that cannot be judged: its issuer's keys cannot be had. API keys go on working."""

    status = 503

    def __init__(self, retry_after_s: int = 5) -> None:
        super().__init__(
            "The keys of the token's issuer are unavailable.",
            headers={"Retry-After": str(retry_after_s)},
        )


class TooManyRequests(ApiError):
    """A configured limit is exceeded (RFC 6585, section 4)."""

    status = 429

    def __init__(self, retry_after_s: int) -> None:
        message = f"Too many requests with bad credentials came from this address: wait {retry_after_s} s."
        super().__init__(
            message, {"retry_after_s": retry_after_s}, headers={"Retry-After": str(retry_after_s)}
        )


class InsufficientPermissions(ApiError):
    """A valid credential whose role does not allow the request."""

    status = 403

    def __init__(self, required: str, actual: str) -> None:
        details = {"required": required, "actual": actual}
        super().__init__(
            f"This needs the role '{required}', the credential has '{actual}'.", details
        )


class UnknownClusterMonitorEvent(ApiError):
    """No such event: never recorded, or cleaned up since."""

    status = 404

    def __init__(self, event_id: str, retention: str) -> None:
        message = f"There is no cluster monitor event {event_id}: {retention}."
        super().__init__(message, {"event_id": event_id})


class NoClusterMonitorEventsAvailable(ApiError):
    """`latest` or the verdict, before the first event."""

    status = 404

    def __init__(self) -> None:
        super().__init__("No cluster monitor event has been recorded yet.")


class UnknownEndpoint(ApiError):
    """A path that this API does not have."""

    status = 404

    def __init__(self, path: str) -> None:
        super().__init__("There is no such endpoint.", {"path": cut(path)})


class MethodNotAllowed(ApiError):
    """A path of this API with a method that it does not take (RFC 9110, section 15.5.6)."""

    status = 405

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        message = (
            f"This endpoint takes {allow}." if allowed else "No endpoint here takes this method."
        )
        super().__init__(message, {"method": cut(method)}, headers={"Allow": allow})


class InvalidApiKey(ApiError):
    """A POST body that does not describe a new API key; every field at fault is named."""

    status = 400

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        listed = [{"field": cut(field), "error": error} for field, error in errors]
        super().__init__("The body does not describe an API key.", {"errors": listed})


class UnknownApiKey(ApiError):
    """No API key of that name."""

    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no API key named '{cut(name)}'.", {"name": cut(name)})


class DuplicateName(ApiError):
    """An API key of that name exists."""

    status = 409

    def __init__(self, name: str) -> None:
        super().__init__(f"An API key named '{cut(name)}' exists.", {"name": cut(name)})


class EventConflict(ApiError):
    """The id of a POSTed event exists with other content."""

    status = 409

    def __init__(self, event_id: str) -> None:
        super().__init__(f"The event {event_id} exists with other content.", {"event_id": event_id})


class InternalError(ApiError):
    """A bug. The log has the same request id with the traceback."""

    status = 500
    close = True

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "Something went wrong here; the log names the reason.", {"request_id": request_id}
        )


class ClusterMonitoringDisabled(ApiError):
    """The event routes and the verdict of a deployment with `MONITORING=off`."""

    status = 501

    def __init__(self) -> None:
        super().__init__("Cluster monitoring is switched off in this deployment.")


class StoreUnavailable(ApiError):
    """The current state cannot be known: the store does not answer, or not in time."""

    status = 503

    def __init__(self, reason: str, retry_after_s: int = 1) -> None:
        message = f"The store is unavailable: {reason}."
        super().__init__(message, {"reason": reason}, headers={"Retry-After": str(retry_after_s)})

    def for_log(self) -> str:
        """The reason, and the driver's own words, which may name addresses: not for clients."""
        reason = str(self.details["reason"])
        return f"{reason} ({self.__cause__})" if str(self.__cause__ or "") else reason


class ServerBusy(ApiError):
    """A limit of this process is reached; `limit` names the setting."""

    status = 503

    def __init__(self, limit: str, retry_after_s: int = 1) -> None:
        message = f"This process has reached a limit ({limit}): try again later."
        super().__init__(message, {"limit": limit}, headers={"Retry-After": str(retry_after_s)})
