"""Log lines that programs and people can read, whatever is in them; metrics that Prometheus can
read."""

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.logs import JsonFormatter, TextFormatter, configure_logging
from service.metrics import DURATION_BOUNDS, Exposition, Metrics, RequestStats
from service.settings import LogFormat

HOSTILE = 'fine\r\n{"level":"critical","message":"forged"}\n2024-01-01 CRITICAL forged'


def record(
    message: str, *arguments: object, error: BaseException | None = None, **extra: object
) -> logging.LogRecord:
    """A log record as the library makes it."""
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.getLogger("service.test").makeRecord(
        "service.test", logging.WARNING, __file__, 1, message, arguments, exc_info, extra=extra
    )


def raised(text: str) -> ValueError:
    """An error with a traceback."""
    try:
        raise ValueError(text)  # noqa: TRY301  # To have a traceback.
    except ValueError as error:
        return error


# -- JSON ------------------------------------------------------------------------------------------


def test_a_json_line_has_its_fields() -> None:
    """A line is an object with time, level, logger and message, then what was passed as extra."""
    line = json.loads(
        JsonFormatter().format(record("%s of %d", "one", 3, reason="away", route="/v0/config"))
    )
    moment = line.pop("time")
    assert moment.endswith("Z")
    assert datetime.fromisoformat(moment).tzinfo is not None
    assert list(line.items()) == [
        ("level", "warning"),
        ("logger", "service.test"),
        ("message", "one of 3"),
        ("reason", "away"),
        ("route", "/v0/config"),
    ]


def test_a_json_line_carries_the_traceback() -> None:
    """An exception is in the same line, as text."""
    line = json.loads(JsonFormatter().format(record("failed", error=raised("no luck"))))
    assert line["exception"].startswith("Traceback")
    assert "ValueError: no luck" in line["exception"]


@pytest.mark.parametrize(
    "value",
    [
        HOSTILE,
        "\u2028\u2029\x85\x0b\x00\x1b[31m",
        "\ud800",
        2**70,
        float("nan"),
        float("inf"),
        b"bytes",
        {"deep": {1: ["x", object]}},
        {1, 2},
        raised("x"),
        None,
    ],
    ids=repr,
)
def test_any_value_gives_one_line_of_json(value: object) -> None:
    """Whatever a value is, the line is one line, is JSON, and keeps its level."""
    text = JsonFormatter().format(record("of %s", value, value=value))
    assert "\n" not in text
    assert "\r" not in text
    line = json.loads(text, parse_constant=pytest.fail)
    assert line["level"] == "warning"
    assert set(line) == {"time", "level", "logger", "message", "value"}


@given(st.text(st.characters(), max_size=40), st.text(st.characters(), max_size=40))
def test_any_text_gives_one_line_of_json(message: str, value: str) -> None:
    """No text breaks a line of JSON, or adds a field to it."""
    text = JsonFormatter().format(record("%s", message, value=value))
    assert "\n" not in text
    assert "\r" not in text
    assert set(json.loads(text)) == {"time", "level", "logger", "message", "value"}


# -- text ------------------------------------------------------------------------------------------


def test_a_text_line_is_for_people() -> None:
    """A line has time, level and message, then what was passed as extra."""
    text = TextFormatter().format(record("%s of %d", "one", 3, reason="a way", status=200))
    assert text[8:] == " WARNING one of 3 reason='a way' status=200"


def test_hostile_values_forge_no_text_line() -> None:
    """Line breaks in messages and values are escaped: one record is one line."""
    text = TextFormatter().format(record("saw %s", HOSTILE, value=HOSTILE))
    assert "\n" not in text
    assert "\r" not in text
    assert "\\r\\n" in text


def test_a_text_line_is_followed_by_its_traceback() -> None:
    """An exception follows the line as people know it."""
    lines = TextFormatter().format(record("failed", error=raised("no luck"))).splitlines()
    assert lines[0].endswith("failed")
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: no luck"


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger without handlers; it is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield root
    root.handlers = handlers
    root.setLevel(level)


@pytest.mark.parametrize("log_format", LogFormat)
def test_logging_goes_to_stderr(
    log_format: LogFormat, root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of level info and above go to stderr in the format that is set; configuring twice
    doubles nothing."""
    configure_logging(log_format)
    configure_logging(log_format)
    logging.getLogger("service.x").debug("quiet")
    logging.getLogger("service.x").info("heard", extra={"n": 1})
    (line,) = capsys.readouterr().err.splitlines()
    if log_format is LogFormat.JSON:
        assert json.loads(line)["message"] == "heard"
    else:
        assert line.endswith("INFO    heard n=1")


# -- metrics ---------------------------------------------------------------------------------------


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Everything that Prometheus would read."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
    }


def test_metrics_are_readable_and_named_alike() -> None:
    """Prometheus' own parser reads the text; every metric has the project's prefix and a help
    text."""
    families = list(text_string_to_metric_families(generate_latest(Metrics().registry).decode()))
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("cluster_events_")
        assert family.documentation.endswith(".")
    assert samples(Metrics())["cluster_events_build_info", (("version", __version__),)] == 1


def test_two_processes_in_one_do_not_mix() -> None:
    """Each `Metrics` counts for itself."""
    one, other = Metrics(), Metrics()
    one.divergences.inc()
    key: Any = ("cluster_events_history_divergence_total", ())
    assert (samples(one)[key], samples(other)[key]) == (1, 0)


def test_requests_are_counted_by_route_method_and_status() -> None:
    """Requests appear under their route's template, their method and their status."""
    metrics = Metrics()
    stats = metrics.requests.route("/v0/cluster/events/{event_id}")
    stats.add("GET", 200, 5)
    stats.add("GET", 200)
    stats.add("GET", 404)
    assert metrics.requests.route("/v0/cluster/events/{event_id}") is stats
    labels = [("code", "200"), ("method", "GET"), ("route", "/v0/cluster/events/{event_id}")]
    read = samples(metrics)
    assert read["cluster_events_http_requests_total", tuple(labels)] == 6
    assert read["cluster_events_http_requests_total", (("code", "404"), *labels[1:])] == 1


def test_durations_are_a_cumulative_histogram() -> None:
    """Each duration counts in every bucket whose bound it does not exceed, the last of which is
    endless."""
    metrics = Metrics()
    stats = metrics.requests.route("/x")
    for duration in (0.0001, DURATION_BOUNDS[0], 0.003, 5.0):
        stats.took(duration)
    read = samples(metrics)
    name = "cluster_events_http_request_duration_seconds"
    counts = [
        read[f"{name}_bucket", (("le", str(bound)), ("route", "/x"))] for bound in DURATION_BOUNDS
    ]
    assert counts == [2, 2, 2, *[3] * (len(DURATION_BOUNDS) - 3)]
    assert read[f"{name}_bucket", (("le", "+Inf"), ("route", "/x"))] == 4
    assert read[f"{name}_count", (("route", "/x"),)] == 4
    assert read[f"{name}_sum", (("route", "/x"),)] == pytest.approx(5.0036)


def test_a_route_without_requests_has_no_count() -> None:
    """A route that was not asked has an empty histogram and no counters."""
    stats = RequestStats()
    stats.route("/x")
    requests, durations = stats.collect()
    assert requests.samples == []
    assert [sample.value for sample in durations.samples if sample.name.endswith("_count")] == [0]


# -- the exposition --------------------------------------------------------------------------------


class Rendered:
    """A state, a clock, and how often an exposition of the state was rendered."""

    def __init__(self) -> None:
        self.context = "old"
        self.now = 100.0
        self.times = 0
        self.takes = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.exposition = Exposition(self.render, lambda: self.context, 1.0, lambda: self.now)

    async def render(self) -> bytes:
        """The state as it is when the rendering begins; it ends when the gate is open."""
        self.times += 1
        text = self.context.encode()
        await self.gate.wait()
        self.now += self.takes
        if text == b"broken":
            raise ValueError(self.context)
        return text


async def test_an_exposition_is_kept_for_its_lifetime() -> None:
    """It is rendered once in a second."""
    rendered = Rendered()
    for now, times in ((100.0, 1), (100.999, 1), (101.0, 2), (101.5, 2), (200.0, 3)):
        rendered.now = now
        assert await rendered.exposition.get() == b"old"
        assert rendered.times == times


async def test_an_exposition_is_not_kept_beyond_a_change() -> None:
    """When the state has changed, the next request gets the new one, without a second to pass."""
    rendered = Rendered()
    assert await rendered.exposition.get() == b"old"
    rendered.context = "new"
    assert await rendered.exposition.get() == b"new"
    assert await rendered.exposition.get() == b"new"
    assert rendered.times == 2


async def test_requests_at_the_same_time_share_a_rendering() -> None:
    """Fifty requests at once are one rendering."""
    rendered = Rendered()
    assert await asyncio.gather(*(rendered.exposition.get() for _ in range(50))) == [b"old"] * 50
    assert rendered.times == 1


async def test_requests_share_a_rendering_that_outlasts_its_lifetime() -> None:
    """Requests that queue up while a rendering takes more than a second share it all the same."""
    rendered = Rendered()
    rendered.takes = 2.0
    rendered.gate.clear()
    requests = [asyncio.create_task(rendered.exposition.get()) for _ in range(50)]
    await asyncio.sleep(0)
    rendered.gate.set()
    assert await asyncio.gather(*requests) == [b"old"] * 50
    assert rendered.times == 1


async def test_a_request_after_a_change_does_not_share_a_rendering_of_before() -> None:
    """Requests that come after a change, during a rendering that began before it, get the new
    state."""
    rendered = Rendered()
    rendered.gate.clear()
    before = asyncio.create_task(rendered.exposition.get())
    while not rendered.times:
        await asyncio.sleep(0)
    rendered.context = "new"
    after = [asyncio.create_task(rendered.exposition.get()) for _ in range(3)]
    await asyncio.sleep(0)
    rendered.gate.set()
    assert await before == b"old"
    assert await asyncio.gather(*after) == [b"new"] * 3
    assert rendered.times == 2


async def test_a_failed_rendering_is_not_kept() -> None:
    """An error goes to the request that met it; the next one tries again."""
    rendered = Rendered()
    rendered.context = "broken"
    for times in (1, 2):
        with pytest.raises(ValueError, match="broken"):
            await rendered.exposition.get()
        assert rendered.times == times
