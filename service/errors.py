"""All errors of the service, and the JSON body of an error response.

    ClusterEventsError
    ├── SettingsError                          invalid settings; the commands exit with 2
    └── ApiError                               an HTTP status, an `error_code`, a message, details
        ├── BadMessage, UriTooLong, HeadersTooLarge, MisdirectedRequest, NotImplemented
        ├── VersionNotSupported, RequestTimeout, UnmetExpectation, UnsupportedMediaType
        ├── InvalidUuidParam, InvalidQueryParam, InvalidEvent, NotAcceptable
        ├── AuthenticationFailed, SigningKeysUnavailable, InsufficientPermissions, TooManyRequests
        ├── UnknownClusterMonitorEvent, NoClusterMonitorEventsAvailable
        ├── UnknownEndpoint, MethodNotAllowed, PayloadTooLarge
        ├── InvalidApiKey, UnknownApiKey, DuplicateName, EventConflict
        └── InternalError, ClusterMonitoringDisabled, StoreUnavailable, ServerBusy

The name of each `ApiError` class *is* its `error_code`, which is part of the API: do not rename it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import orjson

from service.text import cut


class ClusterEventsError(Exception):
    """The base class of the service's own exceptions."""


class SettingsError(ClusterEventsError):
    """Invalid settings: one line for each problem, with the variable and what is expected."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ApiError(ClusterEventsError):
    """An error response with the body `{"message", "error_code", "details"}`.

    `headers` are added to the response. `close` closes the connection after the response, for
    requests after which the position in the byte stream is not certain.
    """

    status: ClassVar[int]
    close: ClassVar[bool] = False
    text: ClassVar[str] = ""
    """The message of an error that always has the same one."""

    def __init__(
        self,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or self.text)
        self.message = message or self.text
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    @property
    def error_code(self) -> str:
        """The CamelCase code in the body."""
        return type(self).__name__

    def body(self) -> bytes:
        """The body as JSON."""
        return orjson.dumps(
            {"message": self.message, "error_code": self.error_code, "details": self.details}
        )


class BadMessage(ApiError):
    """Bytes that are not a well-formed HTTP request (RFC 9112)."""

    status = 400
    close = True
    text = "The request is not well-formed HTTP/1.1."


class VersionNotSupported(ApiError):
    """A request in an HTTP version other than 1.0 and 1.1 (RFC 9110, section 15.6.6)."""

    status = 505
    close = True
    text = "This service supports only HTTP/1.1 and HTTP/1.0."


class UriTooLong(ApiError):
    """A request target longer than this API needs (RFC 9110, section 15.5.15)."""

    status = 414
    close = True

    def __init__(self, limit_bytes: int) -> None:
        message = f"The request target exceeds {limit_bytes:,} bytes."
        super().__init__(message, {"limit_bytes": limit_bytes})


class HeadersTooLarge(ApiError):
    """A limit on header fields is exceeded (RFC 6585, section 5).

    There is a limit on the size of one field, on the size of all fields, and on their number.
    """

    status = 431
    close = True

    @classmethod
    def together(cls, limit_bytes: int) -> Self:
        """All header fields together are too large."""
        message = f"All header fields together exceed {limit_bytes:,} bytes."
        return cls(message, {"limit_bytes": limit_bytes})

    @classmethod
    def one_field(cls, limit_bytes: int) -> Self:
        """One header field is too large."""
        return cls(f"A header field exceeds {limit_bytes:,} bytes.", {"limit_bytes": limit_bytes})

    @classmethod
    def too_many(cls, limit_fields: int) -> Self:
        """There are too many header fields."""
        message = f"The request has more than {limit_fields} header fields."
        return cls(message, {"limit_fields": limit_fields})


class MisdirectedRequest(ApiError):
    """A request with `AUTH=none` whose `Host` is not allowed (RFC 9110, section 15.5.20).

    This is a protection against DNS rebinding.
    """

    status = 421

    def __init__(self, host: str) -> None:
        message = f"This service does not accept requests for the host '{cut(host)}': "
        super().__init__(f"{message}see CLUSTER_EVENTS_ALLOWED_HOSTS.", {"host": cut(host)})


class NotImplemented(ApiError):  # noqa: A001  # The name is the contract's error code; nothing here uses the builtin.
    """A transfer coding other than `chunked` (RFC 9112, section 6.1)."""

    status = 501
    close = True
    text = "The only supported transfer coding is `chunked`."


class RequestTimeout(ApiError):
    """A request body that did not arrive in time (RFC 9110, section 15.5.9)."""

    status = 408
    close = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request body did not arrive within {seconds:g} seconds.")


class UnmetExpectation(ApiError):
    """An `Expect` field other than `100-continue` (RFC 9110, section 10.1.1)."""

    status = 417
    close = True
    text = "The only supported expectation is `100-continue`."


class NotAcceptable(ApiError):
    """`Accept-Encoding` refuses the identity coding and every supported content coding.

    See RFC 9110, section 12.5.3.
    """

    status = 406

    def __init__(self, codings: Sequence[str]) -> None:
        message = f"Accept one of these content codings: {', '.join(codings)}."
        super().__init__(message, {"codings": list(codings)})


class UnsupportedMediaType(ApiError):
    """A request body with a content coding; the service does not decompress bodies."""

    status = 415
    close = True
    text = "Send the request body without a Content-Encoding."


class PayloadTooLarge(ApiError):
    """A request body larger than the route needs (RFC 9110, section 15.5.14)."""

    status = 413
    close = True

    def __init__(self, limit_bytes: int) -> None:
        message = f"The request body exceeds {limit_bytes} bytes."
        super().__init__(message, {"limit_bytes": limit_bytes})


class InvalidUuidParam(ApiError):
    """An event id that is neither `latest` nor a UUID."""

    status = 400

    def __init__(self, value: str) -> None:
        error = "expected `latest` or a UUID"
        super().__init__(
            f"Invalid event id '{cut(value)}': {error}.", {"value": cut(value), "error": error}
        )


class InvalidQueryParam(ApiError):
    """A query parameter with a value that the route does not accept."""

    status = 400

    def __init__(self, param: str, value: str, error: str) -> None:
        details = {"param": param, "value": cut(value), "error": error}
        super().__init__(f"Invalid query parameter '{param}': {error}.", details)


class InvalidEvent(ApiError):
    """A POST body that is not an event; `details` lists every invalid field."""

    status = 400
    text = "The request body is not a cluster monitor event."

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        listed = [{"field": cut(field), "error": error} for field, error in errors]
        super().__init__(details={"errors": listed})


class AuthenticationFailed(ApiError):
    """No credential, or an invalid, expired or revoked one (RFC 6750, section 3).

    All cases have the same message, so that a client cannot probe for valid keys. `reason` and
    `identity` are only for the audit log: the reason as a fixed text, and the id of the API key or
    the subject of a token whose signature was verified.
    """

    status = 401

    def __init__(self, reason: str = "not a credential", identity: str | None = None) -> None:
        message = "Authentication failed: send a valid `Authorization: Bearer <JWT or API key>`."
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})
        self.reason = reason
        self.identity = identity


class SigningKeysUnavailable(ApiError):
    """A JWT that cannot be verified, because its issuer's keys cannot be fetched.

    API keys are not affected.
    """

    status = 503

    def __init__(self, retry_after_s: int = 5) -> None:
        message = "The public keys of the token's issuer are unavailable."
        super().__init__(message, headers={"Retry-After": str(retry_after_s)})


class TooManyRequests(ApiError):
    """Too many requests with invalid credentials from one address (RFC 6585, section 4)."""

    status = 429

    def __init__(self, retry_after_s: int) -> None:
        message = "Too many requests with invalid credentials from this address: wait "
        headers = {"Retry-After": str(retry_after_s)}
        super().__init__(f"{message}{retry_after_s} s.", {"retry_after_s": retry_after_s}, headers)


class InsufficientPermissions(ApiError):
    """A valid credential whose role does not allow the request."""

    status = 403

    def __init__(self, required: str, actual: str) -> None:
        message = f"This request needs the role '{required}', but the credential has '{actual}'."
        super().__init__(message, {"required": required, "actual": actual})


class UnknownClusterMonitorEvent(ApiError):
    """An unknown event id: the event was never recorded, or has been trimmed."""

    status = 404

    def __init__(self, event_id: str, retention: str) -> None:
        message = f"There is no cluster monitor event {event_id}: {retention}."
        super().__init__(message, {"event_id": event_id})


class NoClusterMonitorEventsAvailable(ApiError):
    """A request for the latest event or the verdict before the first event."""

    status = 404
    text = "No cluster monitor event has been recorded yet."


class UnknownEndpoint(ApiError):
    """A path that is not part of this API."""

    status = 404

    def __init__(self, path: str) -> None:
        super().__init__("There is no such endpoint.", {"path": cut(path)})


class MethodNotAllowed(ApiError):
    """A path of this API with a method that it does not support (RFC 9110, section 15.5.6)."""

    status = 405

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        message = (
            f"This endpoint supports {allow}." if allowed else "No endpoint supports this method."
        )
        super().__init__(message, {"method": cut(method)}, headers={"Allow": allow})


class InvalidApiKey(InvalidEvent):
    """A POST body that does not describe an API key; `details` lists every invalid field."""

    text = "The request body does not describe an API key."


class UnknownApiKey(ApiError):
    """There is no API key with this name."""

    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no API key named '{cut(name)}'.", {"name": cut(name)})


class DuplicateName(ApiError):
    """An API key with this name exists already."""

    status = 409

    def __init__(self, name: str) -> None:
        super().__init__(f"An API key named '{cut(name)}' exists already.", {"name": cut(name)})


class EventConflict(ApiError):
    """The id of a posted event exists already, with different content."""

    status = 409

    def __init__(self, event_id: str) -> None:
        message = f"The event {event_id} exists already, with different content."
        super().__init__(message, {"event_id": event_id})


class InternalError(ApiError):
    """A bug. The log has the traceback, with the same request id."""

    status = 500
    close = True

    def __init__(self, request_id: str) -> None:
        message = "An internal error occurred; the log has the details under this request id."
        super().__init__(message, {"request_id": request_id})


class ClusterMonitoringDisabled(ApiError):
    """A request for events or the verdict with `MONITORING=off`."""

    status = 501
    text = "Cluster monitoring is switched off in this deployment."


class StoreUnavailable(ApiError):
    """The current state is not known: the store did not respond, or not in time."""

    status = 503

    def __init__(self, reason: str, retry_after_s: int = 1) -> None:
        message = f"The store is unavailable: {reason}."
        super().__init__(message, {"reason": reason}, headers={"Retry-After": str(retry_after_s)})

    def for_log(self) -> str:
        """The reason with the driver's message, which may contain addresses: not for clients."""
        reason = str(self.details["reason"])
        return f"{reason} ({self.__cause__})" if str(self.__cause__ or "") else reason


class ServerBusy(ApiError):
    """A limit of this process is reached; `limit` is its name."""

    status = 503

    def __init__(self, limit: str, retry_after_s: int = 1) -> None:
        message = f"This process has reached a limit ({limit}): try again later."
        super().__init__(message, {"limit": limit}, headers={"Retry-After": str(retry_after_s)})
