"""``ntdh-bench cache``: what earlier runs left to be used again. Imports no torch."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ntdh_bench.cache import default_cache_dir, is_intact, lock_path, remove, seal_path
from ntdh_bench.commands.arguments import Parser
from ntdh_bench.errors import UserError
from ntdh_bench.suggestions import did_you_mean

_DAY = 86_400
_SEAL_SUFFIX = seal_path(Path("_")).name.removeprefix("_")
# What a killed process leaves of something it was writing: its future name, and a part of a UUID.
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(\.\w+)?")


class Entry(NamedTuple):
    """A cached file or folder.

    Attributes:
        path: where it is.
        made: what it is, or was to be, a part of the cache as; its lock is that path's.
        size: bytes, its digests included.
        age: seconds since it was written.
    """

    path: Path
    made: Path
    size: int
    age: float

    @property
    def kind(self) -> str:
        """The folder of the cache that it is in."""
        return self.path.parent.name


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench cache``; returns the exit status.

    Raises:
        UserError: the kind is unknown, nothing says what to prune, or a file cannot be removed.
    """
    options = parser().parse_args(argv[1:])
    action: Callable[[argparse.Namespace, list[Entry]], None] = options.action
    action(options, _chosen(options.kind))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench cache",
        description="What earlier runs left to be used again: teachers, students, saliencies, "
        "drawings and prepared data, in $NTDH_CACHE or the user's cache folder. All of it can be "
        "made again.",
    )
    actions = made.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="kinds, sizes and ages; of one kind, what it holds")
    listing.set_defaults(action=_list)
    prune = actions.add_parser("prune", help="remove what all given options are true of")
    prune.set_defaults(action=_prune)
    for action in (listing, prune):
        action.add_argument("--kind", metavar="KIND", help="only this kind, as `list` names it")
    add = prune.add_argument
    add("--older-than", type=_days, metavar="DAYS", help="what was made more days ago")
    add("--damaged", action="store_true", help="what is not whole, or of an earlier version")
    add("--dry-run", action="store_true", help="say what would go; remove nothing")
    return made


def _days(text: str) -> float:
    days = float(text)
    if not days >= 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of days")
    return days


# -- what there is -------------------------------------------------------------------------------


def _chosen(kind: str | None) -> list[Entry]:
    entries = sorted(_entries(default_cache_dir()))
    there = dict.fromkeys(entry.kind for entry in entries)
    if kind is not None and kind not in there:
        known, near = ", ".join(there) or "nothing", did_you_mean(kind, there)
        raise UserError(f"--kind {kind}: {default_cache_dir()} has none; {near}it has {known}")
    return [entry for entry in entries if kind in (None, entry.kind)]


def kinds() -> list[str]:
    """Return what kinds of files the cache holds."""
    return sorted({entry.kind for entry in _entries(default_cache_dir())})


def total() -> str:
    """Return in words how much the cache holds."""
    return _total(list(_entries(default_cache_dir())))


def _entries(cache: Path) -> Iterator[Entry]:
    now = time.time()
    for path in cache.glob("*/*"):
        if path.name.endswith((".lock", _SEAL_SUFFIX)):
            continue
        unfinished = _UNFINISHED.fullmatch(path.name)
        made = path.with_name(unfinished["name"].removesuffix(_SEAL_SUFFIX)) if unfinished else path
        try:
            size = _size(path) + (0 if unfinished else _size(seal_path(path)))
            yield Entry(path, made, size, max(0.0, now - path.stat().st_mtime))
        except FileNotFoundError:  # another process is at work
            continue


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def _list(options: argparse.Namespace, entries: list[Entry]) -> None:
    lines = [_names_line(entry) for entry in entries] if options.kind else _kind_lines(entries)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        padded = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *padded]))
    print(f"{'' if not lines else chr(10)}{_total(entries)} in {default_cache_dir()}")


def _kind_lines(entries: list[Entry]) -> list[list[str]]:
    lines = []
    for kind in dict.fromkeys(entry.kind for entry in entries):
        own = [entry for entry in entries if entry.kind == kind]
        ages = sorted(entry.age for entry in own)
        size = size_words(sum(entry.size for entry in own))
        lines.append([kind, f"{len(own)}", size, f"{_age(ages[0])} to {_age(ages[-1])} old"])
    return lines


def _names_line(entry: Entry) -> list[str]:
    state = "unfinished" if entry.made != entry.path else ""
    return [entry.path.name, size_words(entry.size), f"{_age(entry.age)} old", state]


def _total(entries: list[Entry]) -> str:
    return f"{len(entries)} entries, {size_words(sum(entry.size for entry in entries))}"


def size_words(size: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _age(seconds: float) -> str:
    days = seconds / _DAY
    return f"{days:.0f} d" if days >= 2 else f"{days * 24:.0f} h"


# -- removing ------------------------------------------------------------------------------------


def _prune(options: argparse.Namespace, entries: list[Entry]) -> None:
    if not (options.kind or options.damaged or options.older_than is not None):
        raise UserError(
            "`ntdh-bench cache prune` removes what the options say: give --older-than DAYS, --kind "
            "KIND or --damaged (--older-than 0: everything)"
        )
    removed = [entry for entry in entries if _is_meant(entry, options) and _remove(entry, options)]
    print(f"{'would remove' if options.dry_run else 'removed'} {_total(removed)}")


def _is_meant(entry: Entry, options: argparse.Namespace) -> bool:
    old = options.older_than is None or entry.age > options.older_than * _DAY
    return old and (not options.damaged or entry.made != entry.path or not is_intact(entry.path))


def _remove(entry: Entry, options: argparse.Namespace) -> bool:
    """Remove an entry unless a process is making it; returns whether it goes."""
    try:
        with FileLock(lock_path(entry.made), timeout=0):
            print(f"{entry.kind}/{entry.path.name}  {size_words(entry.size)}")
            if not options.dry_run:
                if entry.made == entry.path:  # first: what is left without it is made anew
                    seal_path(entry.path).unlink(missing_ok=True)
                remove(entry.path)
    except Timeout:
        print(f"{entry.kind}/{entry.path.name}  in use, stays")
        return False
    except OSError as error:
        raise UserError(
            f"cannot remove {entry.path}: {error.strerror}; its folder must be yours to write"
        ) from None
    return True
