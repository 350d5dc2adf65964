"""What this package and installed plug-ins offer as entry points."""

from __future__ import annotations

from configparser import ConfigParser
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ntdh_bench.errors import UserError

_OWN = Path(__file__).with_name("entry_points.ini")


def registered(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group, in order of name, without importing them.

    This package's own are read from the file that installers read, so that a checkout that is not
    installed, or was before the last change, knows them all the same. No plug-in replaces them.
    """
    own = ConfigParser(delimiters="=")
    own.read(_OWN, encoding="utf-8")
    found = {entry.name: entry for entry in entry_points(group=group)}
    if own.has_section(group):
        found |= {name: EntryPoint(name, value, group) for name, value in own.items(group)}
    return dict(sorted(found.items()))


def load(entry: EntryPoint) -> Any:
    """Return what an entry point names.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"cannot import the plugin {entry.value}: {error}; mend or remove its package"
        ) from error
