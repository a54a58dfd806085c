"""The body of a POSTed event."""

from service.api.http.bodies import JsonFields
from service.errors import InvalidEvent
from service.events import (
    INFO_LIMIT,
    Observation,
    Status,
    canonical_uuid,
    clean,
    info_fits,
)

_STATUSES = ", ".join(Status)


def body_limit(services: int) -> int:
    """The maximum number of bytes of an event with so many services.

    A service has two infos, and JSON may escape each of their bytes as six bytes. The rest is for
    the names of the fields, the statuses, the id and white space.
    """
    return services * (2 * 6 * INFO_LIMIT + 512) + 4_096


def parse_event(
    body: bytes, services: tuple[str, ...]
) -> tuple[dict[str, Observation], str | None]:
    """The observations of a POSTed event, and its id if it has one.

    Raises `InvalidEvent` with every invalid field.
    """
    fields = JsonFields(body, InvalidEvent)
    event_id = _take_id(fields)
    observations = {
        name: Observation(
            _take_status(fields, f"{name}_status"),
            _take_info(fields, f"{name}_self_info"),
            _take_info(fields, f"{name}_resources_info"),
        )
        for name in services
    }
    fields.finish()
    return observations, event_id


def _take_id(fields: JsonFields) -> str | None:
    # `null` is not the same as no id.
    if "id" not in fields:
        return None
    value = fields.take("id")
    event_id = canonical_uuid(value) if isinstance(value, str) else None
    if event_id is None:
        fields.reject("id", "expected a UUID")
    return event_id


def _take_status(fields: JsonFields, field: str) -> Status:
    value = fields.take(field)
    if isinstance(value, str) and value in set(Status):
        return Status(value)
    fields.reject(
        field, f"expected one of: {_STATUSES}" if value is not None else "the field is required"
    )
    # It has no effect: `finish` raises.
    return Status.UNHEALTHY


def _take_info(fields: JsonFields, field: str) -> str:
    value = fields.take(field, "")
    if isinstance(value, str) and info_fits(cleaned := clean(value)):
        return cleaned
    fields.reject(field, f"expected a text of at most {INFO_LIMIT:,} bytes in UTF-8")
    return ""
