"""README and documentation: short, complete, and of commands that work."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

from ntdh_bench import distillers, interventions, masks
from ntdh_bench.cli import COMMANDS
from ntdh_bench.commands.run import own_options
from ntdh_bench.composition import shipped_files
from ntdh_bench.datasets import dataset_names
from ntdh_bench.distillers import Distiller
from ntdh_bench.errors import UserError
from ntdh_bench.interventions import Intervention
from ntdh_bench.masks import Mask
from ntdh_bench.parsing.parser import BenchCLI

README = Path("README.md").read_text(encoding="utf-8")
PAGES = [
    Path("README.md"),
    *(path for path in sorted(Path("docs").rglob("*.md")) if "results" not in path.parts),
]
# What only others are made of, or made from others.
ABSTRACT = {"Combined", "Distiller", "Intervention", "Mask"}
RUNS = ("fit", "saliency", "validate", "test", "predict")


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands(text: str) -> list[list[str]]:
    """The words after each ``ntdh-bench`` of the shell blocks."""
    parts = [part for line in shell_lines(text) for part in re.split(r"&&|\|", line)]
    words = [shlex.split(part, comments=True) for part in parts]
    return [found[1:] for found in words if found and found[0].endswith("ntdh-bench")]


def of_package(module: object, base: type) -> set[str]:
    """Classes of a package's ``__all__`` that a user can name."""
    found = {name: getattr(module, name) for name in vars(module)["__all__"]}
    return {name for name, x in found.items() if isinstance(x, type) and issubclass(x, base)}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_the_readme_names_every_data_set_method_mask_and_intervention() -> None:
    tables = [line for line in README.splitlines() if line.startswith("| ")]
    named = {
        name for line in tables for code in re.findall(r"`([^`]+)`", line) for name in code.split()
    }
    assert set(dataset_names()) - {"pairs"} <= named  # an example that is generated
    offered = of_package(distillers, Distiller) | of_package(masks, Mask)
    offered |= of_package(interventions, Intervention)
    assert offered - ABSTRACT - {"SharedIntervention", "SplitRows"} <= named
    modules = {"mutual", "c2kd", "mst_distill"}
    assert modules <= named & {name.removeprefix("methods/") for name in shipped_files("methods/*")}


def test_the_page_of_commands_names_each_once_or_with_others() -> None:
    text = Path("docs/commands.md").read_text(encoding="utf-8")
    first = shell_lines(text)[: text.split("```sh\n")[1].split("```")[0].count("\n")]
    assert len(set(first)) == len(first)
    assert all(re.search(rf"\b{name}\b", "\n".join(first)) for name in COMMANDS)


def test_every_page_has_commands_that_parse() -> None:
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 30
    wrong = [f"{page}: {' '.join(words)}: {why}" for page in PAGES for words, why in refused(page)]
    assert wrong == []


def refused(page: Path) -> list[tuple[list[str], str]]:
    text = page.read_text(encoding="utf-8")
    found = []
    for words in commands(text):
        try:
            parse(words, text)
        except (UserError, SystemExit, AssertionError) as error:
            found.append((words, str(error)))
    return found


def parse(words: list[str], page: str) -> None:
    """Raise if the command does not take the words; nothing is run."""
    command, *options = words
    if command.startswith("-"):  # --version
        return
    assert command in COMMANDS, f"choose of {', '.join(COMMANDS)}"
    if command not in RUNS:
        module = import_module(f"ntdh_bench.commands.{COMMANDS[command].module}")
        module.parser().parse_args(options)
        return
    if "--ckpt_path" in words or "--help" in words:
        return
    configs = [words[place + 1] for place, word in enumerate(words) if word == "--config"]
    if not any(f"`{name}`" in page and not Path(name).exists() for name in configs):
        BenchCLI(command, own_options(command, options)[1])  # other configs are shown on the page
