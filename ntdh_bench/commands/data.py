"""``ntdh-bench data``: list, get, check and simulate data sets. Imports no torch."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ntdh_bench.cache import write_atomic
from ntdh_bench.commands.arguments import Parser
from ntdh_bench.datasets import (
    DatasetInfo,
    FileCheck,
    Option,
    catalogue,
    data_root,
    find_dataset,
    is_simulated,
    state_of,
)
from ntdh_bench.errors import UserError

# A file of the user's own, which ``verify`` takes in place of a data set, and what is named in it.
_OWN_FILE = ".npz"
_NAMED = {"target": "of the classes", "split": "of the splits", "group": "of the groups"}


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench data``; returns the exit status, 1 if ``verify`` found anything wrong.

    Raises:
        UserError: the data set is unknown, or the action failed.
    """
    arguments = parser().parse_args(argv[1:])
    action: Callable[[argparse.Namespace], int] = arguments.action
    return action(arguments)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(prog="ntdh-bench data", description="Data sets.")
    actions = made.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="data sets, and which of them are there")
    listing.set_defaults(action=_list)
    prepare = _add(actions, "prepare", "download the published files and check them", _prepare)
    prepare.add_argument(
        "--from",
        dest="from_folder",
        type=Path,
        metavar="FOLDER",
        help="take files you already have from here",
    )
    _add_options(prepare)
    text = "check the files one by one, or a .npz of your own; exit status 1 if any is wrong"
    verify = _add(actions, "verify", text, _verify)
    for name, what in _NAMED.items():
        text = f"array {what} in a .npz of your own; default: {name}"
        verify.add_argument(f"--{name}", metavar="NAME", default=argparse.SUPPRESS, help=text)
    sample = _add(actions, "sample", "write small simulated files in the published layout", _sample)
    sample.add_argument("--seed", type=int, default=0, help="default: 0")
    for command in actions.choices.values():
        command.add_argument(
            "--root", type=Path, metavar="FOLDER", help="data root; default: $NTDH_DATA or data"
        )
    text = "ask each address of published files if it answers; exit status 1 if any does not"
    addresses = actions.add_parser("addresses", help=text, description=text)
    addresses.set_defaults(action=_addresses)
    text = "measure how far people who hear and people who see are apart, on CREMA-D's votes"
    votes = actions.add_parser("votes", help=text, description=text)
    votes.add_argument("file", type=Path, metavar="CSV", help="tabulatedVotes.csv of CREMA-D")
    votes.add_argument(
        "--out", type=Path, metavar="FILE", help="write the numbers as YAML, as the report has them"
    )
    votes.set_defaults(action=_votes)
    return made


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only some data sets have, grouped by which; unset they stay out."""
    owners: dict[Option, list[str]] = {}
    for info in catalogue():
        for option in info.options:
            owners.setdefault(option, []).append(info.name)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option, names in owners.items():
        title = f"options of {', '.join(names)}"
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        if option.default is False:
            kind: dict[str, Any] = {"action": "store_true"}
        else:
            kind = {"type": option.type, "choices": option.choices or None}
        default = "" if option.default in (None, False) else f"; default: {option.default}"
        text = f"{option.help}{default}"
        group.add_argument(option.flag, default=argparse.SUPPRESS, help=text, **kind)


def _add(
    actions: argparse._SubParsersAction[Parser],
    name: str,
    help_text: str,
    action: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("dataset", metavar="DATASET", help="a name from `ntdh-bench data list`")
    parser.set_defaults(action=action)
    return parser


def _list(arguments: argparse.Namespace) -> int:
    root = data_root(arguments.root)
    rows = [("data set", "teacher → student", "files", "note")]
    for info in catalogue():
        state, lacking = state_of(info, root)
        modalities = (" ↔ " if info.either_way else " → ").join(info.modalities[:2])
        rows.append((info.name, modalities, state, lacking or info.title))
    _print_table(rows)
    print("\ndata set: licence; how to get it")
    for info in catalogue():
        print(f"{info.name}: {info.licence}; {info.how_to_get}")
    print(f"\ndata root: {root} (change it with --root or NTDH_DATA)")
    print("`ntdh-bench data prepare NAME` gets a data set or says how, `verify NAME` checks it")
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    info, root = find_dataset(arguments.dataset), data_root(arguments.root)
    if info.prepare is None:
        print(f"{info.name}: nothing to get ({info.how_to_get})")
        return 0
    given = arguments.from_folder
    if given is not None and not given.is_dir():
        raise UserError(f"--from {given}: no such folder")
    for line in info.prepare(root, given, **_settings(info, arguments)):
        print(f"{info.name}: {line}")
    print(f"licence: {info.licence}")
    return 0


def _settings(info: DatasetInfo, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the data set's options; those of another data set are refused."""
    others = {option for other in catalogue() for option in other.options} - set(info.options)
    for option in others:
        if hasattr(arguments, option.argument):
            own = ", ".join(option.flag for option in info.options) or "none of its own"
            raise UserError(f"{option.flag} is no option of {info.name}, which has {own}")
    return {
        option.argument: getattr(arguments, option.argument, option.default)
        for option in info.options
    }


def _verify(arguments: argparse.Namespace) -> int:
    name, root = arguments.dataset, data_root(arguments.root)
    own = name.endswith(_OWN_FILE)
    info = find_dataset("pairs" if own else name)
    if info.verify is None or (info.name == "pairs" and not own):
        print(f"{info.name}: no files to check ({info.how_to_get})")
        return 0
    named = {key: value for key, value in vars(arguments).items() if key in _NAMED}
    if named and not own:
        raise UserError(f"--{min(named)} names an array of a .npz of your own, not of {name}")
    checks = info.verify(Path(name), **named) if own else info.verify(root)
    for check in checks:
        place = check.path.parent if own else check.path
        source = "simulated" if is_simulated(place, root) else "real"
        print(f"{check.state:<11} {source:<10} {_below(check, root)}: {check.note}")
    wrong = sum(check.state != "ok" for check in checks)
    print(f"{name}: {wrong} of {len(checks)} wrong" if wrong else f"{name}: all ok")
    return 1 if wrong else 0


def _sample(arguments: argparse.Namespace) -> int:
    info = find_dataset(arguments.dataset)
    if info.sample is None:
        print(f"{info.name}: nothing to write ({info.how_to_get})")
        return 0
    if arguments.root is None:
        raise UserError("data sample needs --root FOLDER: simulated files never go to a default")
    info.sample(arguments.root, arguments.seed)
    print(f"{info.name}: simulated files in {arguments.root}; use them with --data.root")
    return 0


def _addresses(arguments: argparse.Namespace) -> int:
    from concurrent.futures import ThreadPoolExecutor

    from ntdh_bench.downloads import url_fault

    asked = [
        (info.name, url, page)
        for info in catalogue()
        for urls, page in ((info.file_urls(), False), (info.page_urls, True))
        for url in urls
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        faults = list(pool.map(lambda entry: url_fault(entry[1], page=entry[2]), asked))
    for (name, url, _), fault in zip(asked, faults, strict=True):
        print(f"{name}: {url}: {fault or 'ok'}")
    silent = sum(fault is not None for fault in faults)
    print(f"{silent} of {len(asked)} wrong" if silent else f"all {len(asked)} ok")
    return 1 if silent else 0


def _votes(arguments: argparse.Namespace) -> int:
    from ntdh_bench.people.measuring import measure, to_yaml  # imports torch
    from ntdh_bench.people.votes import read_votes

    votes = read_votes(arguments.file)
    pairs = measure(votes)
    rows: list[tuple[str, ...]] = [("people", "right answers", "TCJSD", "NCJSD", "by chance")]
    for pair in pairs:
        right = [f"{pair[name][0]:.1%}" for name in ("first_right", "second_right")]
        nats = [f"{pair[name][0]:.4f}" for name in ("tcjsd", "ncjsd", "chance")]
        rows.append((f"{pair['first']}, {pair['second']}", ", ".join(right), *nats))
    _print_table(rows)
    print(f"{len(votes.clips):,} clips, {len(set(votes.actor.tolist()))} actors; nats")
    if arguments.out is not None:
        with write_atomic(arguments.out) as temporary:
            temporary.write_text(to_yaml(votes, pairs))
    return 0


def _below(check: FileCheck, root: Path) -> str:
    return os.fspath(
        check.path.relative_to(root) if check.path.is_relative_to(root) else check.path
    )


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a line a row, the first one the header; a terminal cuts what does not fit."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for row in rows:
        line = "  ".join(map(str.ljust, row, widths)).rstrip()
        print(line if len(line) <= room else f"{line[: room - 1]}…")
