"""Settings of a run in words, and as flat keys that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ntdh_bench.records.columns import cut

_CLASS, _ARGUMENTS = "class_path", "init_args"


def in_words(value: Any) -> str:
    """Return a setting as one line: a class by its short name, with its arguments in brackets."""
    if isinstance(value, Mapping):
        if _CLASS not in value:
            return ", ".join(f"{name} {in_words(v)}" for name, v in value.items() if v is not None)
        name = cut(str(value[_CLASS]).rpartition(".")[2], 60)
        arguments = value.get(_ARGUMENTS)
        inside = in_words(arguments) if isinstance(arguments, Mapping) else ""
        return f"{name} ({inside})" if inside else name
    if isinstance(value, list):
        return f"[{', '.join(map(in_words, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def flat(settings: Any, key: str = "") -> dict[str, str]:
    """Return settings as text by dotted key; a class is the value of its own key.

    ``{"model": {"class_path": "a.B", "init_args": {"x": 1}}}`` gives ``model`` B and ``model.x`` 1.
    """
    return dict(_flat(settings, key))


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield key, cut(in_words(value), 60)
        return
    for name, item in value.items():
        if name == _CLASS:
            yield key, cut(str(item).rpartition(".")[2], 60)
        elif name == _ARGUMENTS:
            yield from _flat(item or {}, key)
        else:
            yield from _flat(item, f"{key}.{name}" if key else str(name))
