"""What a check of the services found."""

from service.events import Observation, Status

GOOD = Observation(Status.HEALTHY, "fine", "two of two")
BAD = Observation(Status.UNHEALTHY, "broken", "none of two")
ALL_GOOD = {"api": GOOD, "compiler": GOOD, "runner": GOOD}
ONE_BAD = {"api": GOOD, "compiler": BAD, "runner": GOOD}
LONG = {name: Observation(Status.HEALTHY, "x" * 8_000, "y" * 8_000) for name in ALL_GOOD}
"""Observations whose infos are nearly as long as they may be."""
