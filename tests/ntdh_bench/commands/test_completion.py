from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from ntdh_bench.cli import COMMANDS, main
from ntdh_bench.commands.completion import SHELLS
from ntdh_bench.composition import shipped_configs
from ntdh_bench.datasets import dataset_names
from ntdh_bench.experiments import shipped_experiments

ROOT = Path(__file__).resolve().parents[3]
# `ntdh-bench` as a script of this tree, what the shell printed, and what bash does at a TAB.
PROGRAM = f'#!/bin/sh\nexec "{sys.executable}" -m ntdh_bench "$@"\n'
TAB = """
eval "$(ntdh-bench completion bash)"
COMP_LINE="$1" COMP_POINT="${#1}" COMP_TYPE=9 COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
case "$1" in *" ") COMP_WORDS+=(""); COMP_CWORD=$((COMP_CWORD + 1));; esac
word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD - 1]}"
_python_argcomplete ntdh-bench "$word" "$before" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ntdh-bench"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def at_tab(line: str) -> set[str]:
    """What bash offers at a TAB behind a line."""
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", line], capture_output=True, text=True, check=True
    )
    return {word.strip() for word in done.stdout.splitlines() if word.strip()}


@pytest.mark.usefixtures("shell")
def test_bash_completes_commands_options_and_names() -> None:
    Path("mnist_mine.yaml").write_text("base: mnist_dkd\n")
    assert at_tab("ntdh-bench ") >= COMMANDS.keys()
    configs = {name for name in shipped_configs() if name.startswith("mnist_")}
    assert at_tab("ntdh-bench fit --config mnist_") == {*configs, "mnist_mine.yaml"}
    flags = at_tab("ntdh-bench fit --config mnist_mine.yaml --model.distiller.")
    assert flags == {f"--model.distiller.{name}" for name in ("alpha", "beta", "temperature")}
    assert at_tab("ntdh-bench data pre") == {"prepare"}
    assert at_tab("/data/bin/ntdh-bench data pre") == {"prepare"}


@pytest.mark.slow
@pytest.mark.usefixtures("shell")
def test_bash_completes_every_kind_of_name() -> None:
    assert at_tab("ntdh-bench data verify ") == dataset_names()
    assert at_tab("ntdh-bench sweep table") == {
        n for n in shipped_experiments() if n[:5] == "table"
    }
    assert at_tab("ntdh-bench sweep smoke --protocol ") == {"smoke"}
    assert at_tab("ntdh-bench config copy quick") == {"quickstart"}
    assert at_tab("ntdh-bench completion ") == set(SHELLS)


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_of_each_shell_can_be_read(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", name]) == 0
    script = capsys.readouterr().out
    assert "ntdh-bench" in script
    if shell := shutil.which(name):
        done = subprocess.run([shell, "-n", "-c", script], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_parser(name: str) -> None:
    made = import_module(f"ntdh_bench.commands.{COMMANDS[name].module}").parser
    words: Sequence[str] = [name] if COMMANDS[name].module == "run" else []
    assert made(*words).prog == f"ntdh-bench {name}"
