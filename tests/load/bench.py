"""The benchmark: one run, contenders side by side, CPU time per request from the operating system's
books.

Servers have one core for themselves, wrk and the store another. Each contender is asked whether it
answers what is expected before it is measured. Run: make bench, or python -m tests.load.bench
--help.
"""

import json
import os
import platform
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.load.chart import Bar, draw
from tests.load.contenders import Contenders
from tests.load.life import LIFE_ROWS
from tests.load.marks import Mark, Verdict, table
from tests.load.measure import BenchError, Cores, pinned
from tests.load.polls import APPLICATION, EPOLL, FASTAPI, NGINX, OURS, ROWS, SERVER, WEBDIS, Figures

NAMES = (*ROWS, *LIFE_ROWS)
_BARS = (EPOLL, OURS, NGINX, WEBDIS, SERVER, APPLICATION, FASTAPI)


@dataclass
class Report:
    """Everything that was measured."""

    polls: dict[str, dict[str, Figures]] = field(default_factory=dict)
    life: dict[str, dict[str, float]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    failed: bool = False

    def tell(self, remark: str) -> None:
        """Shows a remark at once, and keeps it."""
        self.remarks.append(remark)
        click.echo(f"  {remark}", err=True)

    def text(self) -> str:
        """The tables for people."""
        parts = []
        if self.polls:
            parts.append(table(self._poll_rows(), frozenset(range(2, 6))))
        if self.life:
            rows = [["row", "figure", "value"]]
            rows += [
                [row, name, f"{value:,.2f}"]
                for row, found in self.life.items()
                for name, value in found.items()
            ]
            parts.append(table(rows, frozenset({2})))
        rows = [["what", "mark", "measured", "verdict"]]
        rows += [[mark.what, mark.target, mark.measured, mark.verdict.value] for mark in self.marks]
        return "\n\n".join([*parts, table(rows, frozenset({2}))])

    def as_json(self, rounds: int, seconds: int) -> bytes:
        """The same for programs."""
        value: dict[str, Any] = {
            "machine": machine(),
            "rounds": rounds,
            "seconds": seconds,
            "polls": {
                row: {name: _summary(one) for name, one in found.items()}
                for row, found in self.polls.items()
            },
            "life": self.life,
            "marks": [asdict(mark) | {"verdict": mark.verdict} for mark in self.marks],
            "remarks": self.remarks,
        }
        return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"

    def chart(self) -> str | None:
        """The chart of the main contenders, if they were measured."""
        found = self.polls.get("latest")
        if not found:
            return None
        bars = [
            Bar(name, found[name].cpu, found[name].store, name == OURS)
            for name in _BARS
            if name in found
        ]
        bars.sort(key=lambda bar: bar.server_us + bar.store_us)
        return draw("CPU time per poll of the latest event (µs, one core)", bars)

    def _poll_rows(self) -> list[list[str]]:
        rows = [["row", "contender", "CPU µs/request", "in Redis", "requests/s", "p99 ms"]]
        for row, found in self.polls.items():
            for name, figures in found.items():
                one = _summary(figures)
                numbers = (one["cpu"], one["store"], one["median_rate"], one["median_p99_ms"])
                rows.append(
                    [
                        row,
                        name,
                        *(
                            f"{number:,.{digits}f}"
                            for number, digits in zip(numbers, (2, 2, 0, 2), strict=True)
                        ),
                    ]
                )
        return rows


def _summary(figures: Figures) -> dict[str, Any]:
    middle = len(figures.rate) // 2
    return asdict(figures) | {
        "cpu": figures.cpu,
        "store": figures.store,
        "median_rate": sorted(figures.rate)[middle],
        "median_p99_ms": sorted(figures.p99_ms)[middle],
    }


def machine() -> dict[str, Any]:
    """The machine in general terms."""
    models = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def measure(names: tuple[str, ...], rounds: int, seconds: int, report: Report) -> None:
    """Measures the rows. What is started is stopped, whatever happens. A row that fails is told,
    and the next one tried."""
    cores = Cores.available()
    if cores.server == cores.client:
        report.tell("remark: there is one core only, so servers and wrk take each other's time")
    with ExitStack() as stack:
        stack.enter_context(pinned(cores.client))
        contenders = Contenders(stack, cores)
        for name in names:
            began = time.monotonic()
            click.echo(f"{name} …", err=True)
            try:
                if name in ROWS:
                    found = report.polls[name] = ROWS[name].measure(
                        contenders, rounds, seconds, report.tell
                    )
                    marks = [ratio.mark(found) for ratio in ROWS[name].ratios]
                else:
                    report.life[name], marks = LIFE_ROWS[name](contenders, seconds)
            except (BenchError, OSError) as error:  # The other rows are worth having.
                report.failed = True
                report.tell(f"failed: {name}: {error}")
                continue
            report.marks += marks
            for mark in marks:
                click.echo(
                    f"  {mark.what}: {mark.measured}, {mark.target}: {mark.verdict}", err=True
                )
            click.echo(f"  {time.monotonic() - began:.0f} s", err=True)


@click.command()
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Alternating rounds of each row.",
)
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Seconds of each measurement.",
)
@click.option("--only", metavar="NAME,…", help=f"These rows only: {', '.join(NAMES)}.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default="build/bench.json",
    show_default=True,
)
@click.option(
    "--chart",
    "chart_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the chart, as SVG.",
)
def main(
    rounds: int, seconds: int, only: str | None, json_path: Path, chart_path: Path | None
) -> None:
    """Measure speed, side by side with others."""
    names = tuple(only.split(",")) if only else NAMES
    if unknown := set(names) - set(NAMES):
        raise click.BadParameter(f"no such row: {', '.join(sorted(unknown))}", param_hint="--only")
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is not installed (Debian: apt-get install wrk)")
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # As an exception, so that everything is stopped.
    report = Report()
    measure(names, rounds, seconds, report)
    click.echo(report.text())
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_bytes(report.as_json(rounds, seconds))
    if chart_path is not None and (chart := report.chart()) is not None:
        chart_path.write_text(chart, encoding="utf-8")
    sys.exit(report.failed or any(mark.verdict is Verdict.MISSED for mark in report.marks))


if __name__ == "__main__":
    main()
