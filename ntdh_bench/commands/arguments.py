"""Parsers of the commands, which say what a misspelt option or action was meant to be."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

from ntdh_bench.errors import one_line
from ntdh_bench.suggestions import did_you_mean

_CHOICE = re.compile(r"argument (.+): invalid choice: '(.*?)' \(choose from (.*)\)", re.DOTALL)
_OPTION = re.compile(r"unrecognized arguments: (-[^\s=]+)")


class Parser(argparse.ArgumentParser):
    """Argparse's own, but that what is wrong is one line, and an option is given whole."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the words, and what was meant; exit with status 2."""
        if found := _CHOICE.fullmatch(message):
            what, word, valid = found.groups()
            known = re.findall(r"[\w.-]+", valid)
            message = f"{what} {word!r}: {did_you_mean(word, known)}choose from {', '.join(known)}"
        elif found := _OPTION.match(message):
            known = sorted({option for parser in _all(self) for option in _options(parser)})
            message = f"there is no {found[1]}: {did_you_mean(found[1], known)}see --help"
        print(f"{self.prog}: error: {one_line(message)}", file=sys.stderr)
        sys.exit(2)


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of the parsers of its actions (``data list``)."""
    for each in _all(parser):
        yield from each._actions


def _all(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _all(inner)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    return iter(parser._option_string_actions)
