from __future__ import annotations

import contextlib
import io
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import pytest

from ntdh_bench import __version__, cli
from ntdh_bench.cli import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ntdh-bench {__version__}\n"


def test_misspelt_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert "did you mean 'fit'?" in capsys.readouterr().err


def test_ctrl_c_before_a_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_once", interrupted)
    assert main(["sweep", "smoke"]) == 130
    assert capsys.readouterr().err == "ntdh-bench: error: interrupted\n"


def test_words_come_from_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ntdh-bench", "--version"])
    assert main() == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "a -> b ... cafe ?"), ("cp1252", "a -> b … café ?"), ("utf-8", "a → b … café 中")],
)
def test_characters_that_a_terminal_does_not_know_degrade(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["--version"]) == 0
    print("a → b … café 中")
    print("name \udcff")  # of a file that is not UTF-8
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert lines[1:] == [shown, "name ?"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("words", [["data", "list"], ["data", "prepare", "--help"]])
def test_commands_on_a_terminal_with_few_characters(
    monkeypatch: pytest.MonkeyPatch, encoding: str, words: list[str]
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with contextlib.suppress(SystemExit):
        assert main(words) == 0
    stream.flush()


@pytest.mark.parametrize("words", [["sweep"], ["test", "--ckpt_path"], ["fit", "--config"]])
def test_a_name_that_is_too_long_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "a" * 5000]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_installed_command_finds_modules_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "angle.py").write_text("")
    (tmp_path / "pytest.py").write_text("")
    assert find_spec("angle") is None
    assert cli.main(["--version"]) == 0
    assert find_spec("angle") is not None
    found = PathFinder.find_spec("pytest")
    assert found is not None
    assert found.origin == pytest.__file__
