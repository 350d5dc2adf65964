"""What mypy has to be told in tests."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def some(value: T | None) -> T:
    """Return a value that must be there."""
    assert value is not None
    return value
