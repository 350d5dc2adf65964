"""What a JSON file should hold, said by example."""

from __future__ import annotations

import math
from typing import Any


def mismatch(value: Any, schema: Any, where: str = "the value") -> str | None:
    """Return the first place where ``value`` is not as ``schema`` says, None if it fits.

    Args:
        value: from JSON.
        schema: ``str``, ``bool``, ``int`` (no bool), ``float`` (finite, an int as well), ``dict``,
            ``list`` or ``None``; ``[schema]`` for a list of any length; ``(a, b)`` for a list of
            that length; ``{"key": schema}`` for a mapping with at least these keys;
            ``{str: schema}`` for one with any; a ``set`` of schemas for one of several; or a
            function that says whether it fits.
        where: name of the value.
    """
    if isinstance(schema, set):
        fits = any(mismatch(value, option) is None for option in schema)
        return None if fits else where
    if isinstance(schema, list):
        return _items(value, schema * len(value), where) if isinstance(value, list) else where
    if isinstance(schema, tuple):
        alike = isinstance(value, list) and len(value) == len(schema)
        return _items(value, list(schema), where) if alike else where
    if isinstance(schema, dict):
        return _entries(value, schema, where) if isinstance(value, dict) else where
    return None if _is(value, schema) else where


def _items(value: list[Any], schemas: list[Any], where: str) -> str | None:
    for number, (item, schema) in enumerate(zip(value, schemas, strict=True)):
        if (wrong := mismatch(item, schema, f"{where}[{number}]")) is not None:
            return wrong
    return None


def _entries(value: dict[Any, Any], schema: dict[Any, Any], where: str) -> str | None:
    any_key = schema.get(str)
    pairs = [(key, any_key) for key in value] if str in schema else list(schema.items())
    for number, (key, expected) in enumerate(pairs):
        name = f"{where}, entry {number + 1}" if str in schema else f"{where}, {key!r}"
        if not isinstance(key, str) or key not in value:
            return name
        if (wrong := mismatch(value[key], expected, name)) is not None:
            return wrong
    return None


def _is(value: Any, schema: Any) -> bool:
    if schema is None:
        return value is None
    if schema is float:
        return type(value) in (int, float) and math.isfinite(value)
    if isinstance(schema, type):
        return type(value) is schema
    return bool(schema(value))
