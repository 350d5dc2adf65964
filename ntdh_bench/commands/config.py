"""``ntdh-bench config``: shows configs as runs get them. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from ntdh_bench.composition import find_config, shipped_configs
from ntdh_bench.files.text import read_text
from ntdh_bench.parsing.configs import read_configs


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench config``; returns the exit status.

    Raises:
        UserError: there is no such config, or it cannot be read.
    """
    options = _parser().parse_args(argv[1:])
    action: Callable[[argparse.Namespace], None] = options.action
    action(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ntdh-bench config",
        description="Configs: those that come with the package, and what one is once it is merged "
        "over the bases that it names.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser(
        "show", help="print configs merged, later ones win, as `fit --config` takes them"
    )
    show.add_argument(
        "configs", nargs="+", metavar="CONFIG", help="a YAML file, or a name that `list` shows"
    )
    show.set_defaults(action=_show)
    listing = actions.add_parser("list", help="those that come with the package, a line each")
    listing.set_defaults(action=_list)
    return parser


def _show(options: argparse.Namespace) -> None:
    config = read_configs(map(find_config, options.configs))
    text = yaml.safe_dump(config, default_flow_style=None, sort_keys=False, allow_unicode=True)
    print(text, end="")


def _list(_: argparse.Namespace) -> None:
    shipped = shipped_configs()
    width = max(map(len, shipped))
    for name, path in shipped.items():
        print(f"{name:<{width}}  {_title(path)}".rstrip())


def _title(path: Path) -> str:
    """Return the comment that a config begins with, its first line."""
    first = read_text(path).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
