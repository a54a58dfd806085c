"""Error responses: all have the same JSON body (deploy/API.md)."""

import logging
import secrets

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from service.api.http.headers import CACHE_CONTROL, COMMON_HEADERS, CONTENT_TYPE
from service.errors import ApiError, BadMessage, InternalError

log = logging.getLogger(__name__)


def error_response(error: ApiError) -> web.Response:
    """The response for an error."""
    response = web.Response(status=error.status, body=error.body(), headers=error.headers)
    response.headers[CONTENT_TYPE] = "application/json"
    response.headers[CACHE_CONTROL] = "no-store"
    for name, value in COMMON_HEADERS:
        response.headers[name] = value
    if error.close:
        response.force_close()
    return response


def error_to_response(request: web.BaseRequest, error: Exception) -> web.Response:
    """The response to a request whose handler raised an exception."""
    if isinstance(error, ApiError):
        return error_response(error)
    disconnected = isinstance(error, ConnectionError) and request.transport is None
    # An incomplete or malformed body is no internal error. aiohttp's pure-Python parser raises
    # another class than the one in C.
    if disconnected or isinstance(error, (web.RequestPayloadError, HttpProcessingError)):
        return error_response(BadMessage())
    return internal_error(request, error)


def internal_error(request: web.BaseRequest, error: BaseException | None) -> web.Response:
    """The response for a bug. The log has the traceback, with the request id of the response."""
    request_id = secrets.token_hex(8)
    log.error(
        "internal error while handling a request",
        exc_info=error,
        extra={"request_id": request_id, "method": request.method},
    )
    return error_response(InternalError(request_id))
