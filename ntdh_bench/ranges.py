"""Arguments of classes: one line that says what is wrong and names the range. Imports no torch."""

from __future__ import annotations

import math

from ntdh_bench.errors import UserError


def check_at_least(name: str, value: float | None, least: float) -> None:
    """Raise a UserError if ``value`` is given and not a finite number from ``least`` up."""
    if value is not None and not least <= value < math.inf:
        raise UserError(f"{name} is {value}: it must be at least {least}, and finite")


def check_above(name: str, value: float, bound: float) -> None:
    """Raise a UserError if ``value`` is not a finite number above ``bound``."""
    if not bound < value < math.inf:
        raise UserError(f"{name} is {value}: it must be above {bound}, and finite")


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Raise a UserError if ``value`` is not in [low, high]."""
    if not low <= value <= high:
        raise UserError(f"{name} is {value}: it must lie in [{low}, {high}]")


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Raise a UserError if ``value`` is not one of ``valid``."""
    if value not in valid:
        raise UserError(f"{name} is {value!r}: choose one of {', '.join(valid)}")
