"""The benchmark's own arithmetic: a wrong figure must not come from here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from tests.load import bench, ours
from tests.load.chart import Bar, draw
from tests.load.life import Observer
from tests.load.marks import Mark, Verdict, table
from tests.load.measure import (
    BenchError,
    core_us,
    cpu_us,
    family,
    median_ratio,
    memory_kib,
    parse_wrk,
    percentile,
    pinned,
)
from tests.load.nginx import _quoted
from tests.load.ours import Server
from tests.load.polls import OURS, ROWS, Figures, Load
from tests.load.processes import process, until
from tests.support import needs

REPORT = """\
Running 4s test @ http://127.0.0.1:40123/v0/cluster/events/latest
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   512.20us  300.10us   9.01ms   90.12%
    Req/Sec   120.10k     3.20k  125.00k    70.00%
  Latency Distribution
     50%  480.00us
     75%  600.00us
     90%  800.00us
     99%    1.51ms
  480400 requests in 4.02s, 150.20MB read
"""


def test_wrk_report() -> None:
    """The counts are read from wrk's report; what it does not mention did not happen."""
    run = parse_wrk(REPORT + "Requests/sec: 119502.10\n")
    assert (run.requests, run.seconds, run.refused, run.socket_errors) == (480_400, 4.02, 0, 0)
    assert run.p99_ms == pytest.approx(1.51)


def test_wrk_report_of_errors() -> None:
    """Refused requests and socket errors are counted, and minutes are 60 seconds."""
    report = REPORT.replace("4.02s", "1.50m")
    report += "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 7\n"  # noqa: E501
    run = parse_wrk(report)
    assert (run.seconds, run.refused, run.socket_errors) == (90.0, 7, 4_321)


@pytest.mark.parametrize(
    "output", ["", "unable to connect to 127.0.0.1:1 Connection refused", "0 requests"]
)
def test_wrk_failed(output: str) -> None:
    """What is not a report is an error that shows it, not a row of zeros."""
    with pytest.raises(BenchError, match=output or "nothing"):
        parse_wrk(output)


def test_median_of_ratios() -> None:
    """A round in which everything was slow does not move the ratio; a ratio of medians would."""
    assert median_ratio([10, 90, 11], [10, 90, 20]) == pytest.approx(1.0)


def test_median_of_ratios_needs_pairs() -> None:
    """A round that only one side has is a mistake, not something to leave out."""
    with pytest.raises(ValueError, match="longer"):
        median_ratio([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (99, 99), (99.5, 100), (100, 100), (0, 1)], ids=str
)
def test_percentile(percent: float, expected: float) -> None:
    """A percentile is one of the values: the smallest that so many do not exceed."""
    assert percentile(list(range(100, 0, -1)), percent) == expected


@pytest.mark.parametrize(
    ("mark", "verdict"),
    [
        (Mark("m", 1.0, 1.004), Verdict.MET),
        (Mark("m", 1.0, 1.006), Verdict.MISSED),
        (Mark("m", 1.0, 1.05, accept=1.05), Verdict.ACCEPTED),
        (Mark("m", 1.0, 1.06, accept=1.05), Verdict.MISSED),
        (Mark("m", 40, 39.9, at_least=True), Verdict.MISSED),
        (Mark("m", 40, 41, at_least=True), Verdict.MET),
        (Mark("m", 1.0, None), Verdict.SKIPPED),
    ],
)
def test_verdict(mark: Mark, verdict: Verdict) -> None:
    """A value stands to its mark as the shown digits do."""
    assert mark.verdict is verdict


def test_table() -> None:
    """Columns line up, numbers to the right."""
    assert table([["a", "n"], ["long", "1"], ["b", "100"]], frozenset({1})).splitlines() == [
        "a       n",
        "----  ---",
        "long    1",
        "b     100",
    ]


def test_chart() -> None:
    """The chart is well-formed XML whatever the names are, and its bars are as long as their
    times."""
    root = ET.fromstring(
        draw("a <b> & c", [Bar("<ours>", 6.0, ours=True), Bar("x & y", 60.0, 60.0)])
    )
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["a <b> & c", "<ours>", "6.0 µs", "x & y", "60.0 µs + 60.0 in Redis"]
    ours, server, store = (
        float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")
    )
    assert server == pytest.approx(store)
    assert server == pytest.approx(10 * ours, abs=1)


def test_chart_of_nothing() -> None:
    """Without the row it shows there is no chart."""
    assert bench.Report().chart() is None


def test_report() -> None:
    """The tables and the JSON name what was measured, skipped contenders' marks included."""
    figures = Figures(
        cpu_us=[6.0, 7.0, 6.5], store_us=[0, 0, 0], rate=[1.0, 3.0, 2.0], p99_ms=[1.0, 1.0, 1.0]
    )
    marks = [ratio.mark({OURS: figures}) for ratio in ROWS["latest"].ratios]
    report = bench.Report(
        polls={"latest": {OURS: figures}}, life={"start": {"fastest_s": 0.5}}, marks=marks
    )
    assert "6.50" in report.text()
    value = json.loads(report.as_json(3, 4))
    assert value["polls"]["latest"][OURS]["cpu"] == 6.5
    assert {mark["verdict"] for mark in value["marks"]} == {"skipped"}
    chart = report.chart()
    assert chart is not None
    assert "6.5 µs" in chart


def test_every_ratio_has_its_cases() -> None:
    """No mark asks for a case that its row does not measure."""
    for row in ROWS.values():
        for ratio in row.ratios:
            assert {ratio.case, ratio.against} <= set(row.cases)


@pytest.mark.parametrize("size", [2_048, 3_072, 2_049])
def test_event_size(size: int) -> None:
    """An event to POST has the size asked for once the id, the time and the verdict are added."""
    added = b'"id":"%s","recorded_at":"%s","all_healthy":true,' % (36 * b"0", 27 * b"0")
    assert len(ours.event(size)) + len(added) == size


def test_unique_heads_begin_anew() -> None:
    """Two runs of the same load never send the same head."""
    load = Load(unique="X-Run: %d")
    first, second = (load.arguments(1)[-1] for _ in range(2))
    assert int(second) > int(first)


def test_nginx_quoting() -> None:
    """What nginx would not take literally is refused, not sent as something else."""
    assert _quoted('{"a": 1}') == "'{\"a\": 1}'"
    with pytest.raises(ValueError, match="literally"):
        _quoted("it costs $1")


def test_changes_seen_late() -> None:
    """A change that no poll saw counts as seen when a later one was; one that none saw is an
    error."""
    observer = Observer(Server(0, 0))
    sent = {"a": 1.0, "b": 1.1, "c": 1.2}
    observer._seen = [("before", 0.5), ("a", 1.01), ("c", 1.25)]
    assert observer.delays_ms(sent) == pytest.approx([10, 150, 50])
    observer._seen.pop()
    with pytest.raises(BenchError, match="2 of 3"):
        observer.delays_ms(sent)


def test_process_accounting(tmp_path: Path) -> None:
    """A process' books include its children; it runs on its core and is gone at the end."""
    needs.linux("the affinity of processes to cores")
    core = min(os.sched_getaffinity(0))
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    work = (
        "import pathlib, time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: "
        "pass\n"
    )
    work += "pathlib.Path('done').touch()\ntime.sleep(60)"
    with process(
        [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}", work],
        tmp_path / "log",
        core,
    ) as started:
        until((tmp_path / "done").exists, started, tmp_path / "log")
        members = family(started.pid)
        assert len(members) == 2
        assert 200_000 <= cpu_us(started.pid) <= core_us(core)
        assert memory_kib(started.pid) > memory_kib(members[1]) > 1_000
        assert [os.sched_getaffinity(member) for member in members] == [{core}, {core}]
    assert started.returncode is not None


def test_process_that_dies(tmp_path: Path) -> None:
    """A contender that cannot start is an error that shows what it said."""
    needs.linux("the affinity of processes to cores")
    log, core = tmp_path / "log", min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with process(command, log, core) as started, pytest.raises(BenchError, match="no such port"):
        until(lambda: False, started, log)


def test_pinned_is_undone() -> None:
    """The benchmark itself keeps its cores."""
    needs.linux("the affinity of processes to cores")
    before = os.sched_getaffinity(0)
    with pinned(min(before)):
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert child.stdout.strip() == str({min(before)})
    assert os.sched_getaffinity(0) == before


def test_unknown_row() -> None:
    """A row that does not exist is refused by name before anything is started."""
    result = CliRunner().invoke(bench.main, ["--only", "latest,fastest"])
    assert result.exit_code == 2
    assert "no such row: fastest" in result.output
