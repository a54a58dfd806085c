"""Everything in sequence, in about four minutes, with one table in the end: python -m
tests.soak."""

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable

import click

from tests.load.marks import Mark, Verdict, table
from tests.soak import outages, polling, resume, watchers

COUNT = ""
"""What numbers of mistakes are counted in."""


def _none(what: str, found: int) -> Mark:
    return Mark(what, 0, found, unit=COUNT, digits=0)


def _show(title: str, figures: dict[str, str]) -> None:
    click.echo(f"\n{title}")
    for name, value in figures.items():
        click.echo(f"  {name:<40} {value}")


def _complain(problems: list[str]) -> None:
    for problem in problems[:5]:
        click.echo(f"  {problem}", err=True)


async def resuming(seconds: float) -> list[Mark]:
    """Watchers through faults, with everything retained and with little."""
    marks = []
    for what, retention, share in (("all retained", 2_000, 0.65), ("100 retained", 100, 0.35)):
        events, cut = round(2_000 * share), retention == 100
        outcome = await resume.run(
            share * seconds,
            events,
            retention=retention,
            writers=1 if cut else 2,
            faults=max(8, round(share * seconds)),
            away=300,
        )
        _show(f"resuming, {what}", outcome.figures)
        _complain(outcome.problems)
        marks.append(
            _none(f"resuming, {what}: logs that are not the history", len(outcome.problems))
        )
    return marks


async def polled(seconds: float) -> list[Mark]:
    """Polls against a model, on the poll path and off it."""
    marks = []
    for on in (True, False):
        way = f"poll path {'on' if on else 'off'}"
        outcome = await polling.run(seconds / 2, poll_path=on, load=shutil.which("wrk") is not None)
        _show(f"polling, {way}", outcome.figures)
        _complain(outcome.problems)
        older = len(outcome.model.older)
        marks.append(_none(f"polling, {way}: answers older than what was acknowledged", older))
        marks.append(
            _none(f"polling, {way}: answers torn, mixed or refused", len(outcome.problems) - older)
        )
    return marks


async def broken(seconds: float) -> list[Mark]:
    """The store killed, paused and emptied."""
    found = [await outages.run(fault, seconds / 3) for fault in outages.FAULTS]
    click.echo("\n" + outages.report(found))
    marks = []
    for outage in found:
        _complain(outage.problems)
        longest = max(one.there - one.asked for one in outage.during("latest")) * 1_000
        marks.append(_none(f"{outage.fault}: answers that were not allowed", len(outage.problems)))
        if outage.fault != "FLUSHALL":
            marks.append(
                Mark(
                    f"{outage.fault}: right again once the store is back",
                    1,
                    outage.back("latest"),
                    unit="s",
                )
            )
        # Each process may ask a dead store once, within this time.
        limit = 1_000 * outages.READ_TIMEOUT
        marks.append(
            Mark(f"{outage.fault}: the longest poll meanwhile", limit, longest, unit="ms", digits=0)
        )
    return marks


async def waited_for(seconds: float) -> list[Mark]:
    """Thousands who watch and wait."""
    outcome = await watchers.run(seconds=seconds / 8)
    click.echo("\n" + outcome.report)
    return outcome.marks


PARTS: dict[str, tuple[Callable[[float], Awaitable[list[Mark]]], float]] = {
    "resume": (resuming, 0.25),
    "polling": (polled, 0.15),
    "outages": (broken, 0.08),
    "watchers": (waited_for, 0.3),
}
"""And the share of the time that each is given; starting and settling take the rest."""


@click.command()
@click.option(
    "--seconds", default=240.0, show_default=True, help="About how long everything may take."
)
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Some parts, not all.")
@click.option("--seed", default=None, type=int, help="For the same faults again.")
def main(seconds: float, only: tuple[str, ...], seed: int | None) -> None:
    """Breaks the service in every way under load and measures what it costs; exits 1 if a mark was
    missed."""
    seed = seed if seed is not None else random.randrange(1_000_000)
    random.seed(seed)
    marks = []
    for name in only or PARTS:
        part, share = PARTS[name]
        marks += asyncio.run(_whole(part(share * seconds)))
    rows = [["what", "mark", "measured", "verdict"]]
    rows += [[mark.what, mark.target, mark.measured, mark.verdict.value] for mark in marks]
    click.echo("\n" + table(rows, frozenset({2})))
    click.echo(f"seed {seed}")
    raise SystemExit(any(mark.verdict is Verdict.MISSED for mark in marks))


async def _whole(part: Awaitable[list[Mark]]) -> list[Mark]:
    return await part


if __name__ == "__main__":
    main()
