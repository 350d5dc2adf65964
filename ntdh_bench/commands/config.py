"""``ntdh-bench config``: shows configs as runs get them, and copies shipped ones. No torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ntdh_bench.cache import write_atomic
from ntdh_bench.commands.arguments import Parser
from ntdh_bench.composition import (
    as_list,
    find_config,
    read_mapping,
    shipped_configs,
)
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.experiments import find_experiment, shipped_experiments
from ntdh_bench.files.text import read_text
from ntdh_bench.parsing.configs import read_configs


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench config``; returns the exit status.

    Raises:
        UserError: there is no such config, it cannot be read, or a copy would replace a file.
    """
    options = parser().parse_args(argv[1:])
    action: Callable[[argparse.Namespace], None] = options.action
    action(options)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench config",
        description="Configs: those that come with the package, and what one is once it is merged "
        "over the bases that it names.",
    )
    actions = made.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser(
        "show", help="print configs merged, later ones win, as `fit --config` takes them"
    )
    show.add_argument(
        "configs", nargs="+", metavar="CONFIG", help="a YAML file, or a name that `list` shows"
    )
    show.set_defaults(action=_show)
    listing = actions.add_parser("list", help="those that come with the package, a line each")
    listing.add_argument("--sweeps", action="store_true", help="the experiments that `sweep` runs")
    listing.set_defaults(action=_list)
    copy = actions.add_parser("copy", help="write one of the package's to a file of yours")
    copy.add_argument("name", metavar="CONFIG", help="a name that `list` or `list --sweeps` shows")
    copy.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="default: its last word in this folder"
    )
    copy.set_defaults(action=_copy)
    return made


def _show(options: argparse.Namespace) -> None:
    config = read_configs(map(find_config, options.configs))
    text = yaml.safe_dump(config, default_flow_style=None, sort_keys=False, allow_unicode=True)
    print(text, end="")


def _list(options: argparse.Namespace) -> None:
    shipped = shipped_experiments() if options.sweeps else shipped_configs()
    width = max(map(len, shipped))
    for name, path in shipped.items():
        title = read_mapping(path)["title"] if options.sweeps else _title(path)
        print(f"{name:<{width}}  {title}".rstrip())


def _title(path: Path) -> str:
    """Return the comment that a config begins with, its first line."""
    first = read_text(path).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


# -- copies --------------------------------------------------------------------------------------


def _copy(options: argparse.Namespace) -> None:
    name = options.name.removesuffix(".yaml").removeprefix("configs/").removeprefix("sweeps/")
    configs, experiments = shipped_configs(), shipped_experiments()
    if name not in configs and name not in experiments:
        find = find_experiment if options.name.startswith("sweeps/") else find_config
        raise FileError(f"{find(name)} does not come with the package: copy it as any file")
    source = configs.get(name) or experiments[name]
    target: Path = options.file or Path(source.name)
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target} is no name of a config: give it the suffix .yaml")
    if target.exists():
        raise UserError(f"{target} is there already: name another file behind {options.name}")
    with write_atomic(target) as temporary:
        temporary.write_text(_found_anywhere(source, configs), encoding="utf-8")
    print(f"{target}: a copy of {name}; {_use(target, name in experiments)}")


def _use(target: Path, is_experiment: bool) -> str:
    if is_experiment:
        return f"rename it before you change its runs: `ntdh-bench sweep {target}`"
    return f"`ntdh-bench fit --config {target}`"


def _found_anywhere(source: Path, configs: dict[str, Path]) -> str:
    """Return the text of a config that names others by name, not by where they lie beside it."""
    names = {path.resolve(): name for name, path in configs.items()}
    text = read_text(source)
    for file in dict.fromkeys(_files(read_mapping(source))):
        name = names[(source.parent / file).resolve()]
        text = re.sub(rf"(?<![\w./-]){re.escape(file)}(?![\w./-])", name, text)
    return text


def _files(value: Any) -> Iterator[str]:
    """Yield the files that a config or an experiment names by `base` and `config`."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("base", "config"):
                yield from map(str, as_list(item))
            else:
                yield from _files(item)
    elif isinstance(value, list):
        for item in value:
            yield from _files(item)
