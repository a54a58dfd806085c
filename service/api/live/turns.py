"""Work for many clients, done in small portions so that polls are answered in between."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def in_turns(items: Iterable[T], work: Callable[[T], None], per_turn: int) -> None:
    """Calls `work` for each item: for the first `per_turn` now, then as many per loop turn."""
    todo = list(items)

    def turn(start: int) -> None:
        for item in todo[start : start + per_turn]:
            work(item)
        if start + per_turn < len(todo):
            asyncio.get_running_loop().call_soon(turn, start + per_turn)

    turn(0)
