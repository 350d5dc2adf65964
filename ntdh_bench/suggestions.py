"""What a misspelt word was meant to be. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 80  # characters that are compared


def nearest(word: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that a word is nearly, upper and lower case alike; best first."""
    by_plain: dict[str, list[str]] = {}
    for name in known:
        by_plain.setdefault(name.lower(), []).append(name)
    close = get_close_matches(word[:_LONGEST].lower(), by_plain, n=most)
    return [name for plain in close for name in by_plain[plain]][:most]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'name'? `` with the nearest name, empty if none is near."""
    close = nearest(word, known)
    return f"did you mean {close[0]!r}? " if close else ""
