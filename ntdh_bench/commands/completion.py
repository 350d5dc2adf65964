"""``ntdh-bench completion``: commands, options and names in a shell. Imports no torch.

The script that a shell reads calls ``ntdh-bench`` at each TAB, with the line so far in variables;
:func:`complete` answers from the parsers of the commands, by what their arguments are called in
help pages (``metavar``).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

import argcomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter
from argcomplete.shell_integration import shellcode

from ntdh_bench.commands.arguments import Parser, actions
from ntdh_bench.composition import Config, find_config, read_config, read_mapping, shipped_configs
from ntdh_bench.datasets import dataset_names
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import find_experiment, shipped_experiments

SHELLS = ("bash", "zsh", "fish")
_YAML = FilesCompleter(("yaml", "yml"))
_CLASSES = ("model", "data", "mask")  # parts of a config that are one, also where it does not say
_FOLDERS = DirectoriesCompleter()


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench completion``; returns the exit status."""
    options = parser().parse_args(argv[1:])
    print(shellcode(["ntdh-bench"], shell=options.shell), end="")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench completion",
        description='Print a script that completes ntdh-bench: eval "$(ntdh-bench completion '
        'bash)" in ~/.bashrc (zsh: after compinit in ~/.zshrc), or `ntdh-bench completion fish | '
        "source` in ~/.config/fish/config.fish.",
    )
    made.add_argument("shell", choices=SHELLS, metavar="SHELL", help=" | ".join(SHELLS))
    return made


def complete(commands: dict[str, str]) -> None:
    """Answer the shell that asks how its line may go on, and exit.

    Args:
        commands: name to the module of :mod:`ntdh_bench.commands` that has its parser.
    """
    line, end = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    begun = line.encode()[:end].decode(errors="ignore").split(" ")
    words = [word for word in begun if word]
    if len(words) < 2 or (len(words) == 2 and begun[-1]):
        first = argparse.ArgumentParser(add_help=False)
        first.add_argument("command", choices=(*commands, "--help", "--version"))
        argcomplete.autocomplete(first)
    elif words[1] in commands:
        found = _parser_of(words[1], commands[words[1]], words[2:])
        place = line.index(words[1], line.index(words[0]) + len(words[0]))  # not in its path
        head, tail = line[:place], line[place + len(words[1]) :]
        os.environ["COMP_LINE"] = head.rstrip() + tail
        os.environ["COMP_POINT"] = str(end - (len(line) - len(head.rstrip() + tail)))
        options = "long" if commands[words[1]] == "run" else False  # which takes nothing else
        argcomplete.autocomplete(found, always_complete_options=options)


def _parser_of(name: str, module: str, words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command with what completes each of its arguments."""
    made: Callable[..., argparse.ArgumentParser] = import_module(
        f"ntdh_bench.commands.{module}"
    ).parser
    found = made(name) if module == "run" else made()
    if module == "run":
        for flag in _flags(words):
            if flag not in found._option_string_actions:
                found.add_argument(flag, metavar="VALUE")
    for action in actions(found):
        known = _BY_METAVAR.get(str(action.metavar)) or _BY_METAVAR.get(f"--{action.dest}")
        if known:
            action.completer = known  # type: ignore[attr-defined]
    return found


# -- names ---------------------------------------------------------------------------------------


def _configs(prefix: str, **_: Any) -> list[str]:
    return [*shipped_configs(), *_YAML(prefix)]


def _experiments(prefix: str, **_: Any) -> list[str]:
    return [*shipped_experiments(), *_YAML(prefix)]


def _protocols(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    try:
        protocols = read_mapping(find_experiment(parsed_args.config)).get("protocols")
    except (UserError, TypeError):
        return ()
    return protocols if isinstance(protocols, dict) else ()


def _datasets(prefix: str, **_: Any) -> list[str]:
    return [*sorted(dataset_names()), *FilesCompleter(("npz",))(prefix)]


def _kinds(**_: Any) -> list[str]:
    from ntdh_bench.commands.cache import kinds

    return kinds()


_BY_METAVAR: dict[str, Callable[..., Iterable[str]]] = {
    "CONFIG": _configs,
    "EXPERIMENT": _experiments,
    "--protocol": _protocols,
    "DATASET": _datasets,
    "KIND": _kinds,
    "FOLDER": _FOLDERS,
    "DIR": _FOLDERS,
    "RUN": _FOLDERS,
    "CHECKPOINT": FilesCompleter(("ckpt",)),
    "CSV": FilesCompleter(("csv",)),
}


def _flags(words: Sequence[str]) -> list[str]:
    """Return a flag for every setting of the configs in a line, which it would change."""
    named = re.findall(r"(?:^| )(?:-c|--config)[ =](\S+)", " ".join(words))
    found: dict[str, None] = {}
    for name in named:
        try:
            found |= dict.fromkeys(_dotted(read_config(find_config(name)), "--"))
        except UserError:
            continue  # it is not written to its end yet
    return [flag for flag in found if flag != "--seed_everything"]


def _dotted(config: Config, prefix: str) -> Iterator[str]:
    """Yield the flags of a config; those of a class without ``init_args``."""
    for key, value in config.items():
        if key == "init_args" and isinstance(value, dict):
            yield from _dotted(value, prefix)
        elif key != "class_path":
            name = f"{prefix}{'' if prefix == '--' else '.'}{key}"
            if not isinstance(value, dict) or "class_path" in value or key in _CLASSES:
                yield name
            if isinstance(value, dict):
                yield from _dotted(value, name)
