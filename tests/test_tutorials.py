"""The tutorials run as they stand, each in an empty folder, and show what their pages say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.third_party import forget_code

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
SHOWN = {
    "own_arrays": r"dkd +\d.\d{3}, [+-]\d+\.\d points: runs/\S+\n",
    "own_loss": r"ranking +accuracy 0\.\d+, NCJSD 0\.\d+\n(.|\n)*600 of 800 rows are distilled\n",
    "own_network": r"teacher: 1156 parameters, student: 820\naccuracy 0\.\d+ of 0\.\d+\n",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_tutorial_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    forget_code()  # of what was the main module before
    runpy.run_path(str(TUTORIALS / f"{name}.py"), run_name="__main__")
    forget_code()
    assert re.search(SHOWN[name], capsys.readouterr().out)


def test_every_tutorial_is_run_and_shown_on_a_page() -> None:
    scripts = {path.stem for path in TUTORIALS.glob("*.py")}
    assert scripts == SHOWN.keys()
    pages = "".join(path.read_text(encoding="utf-8") for path in TUTORIALS.glob("*.md"))
    included = re.findall(r"```{literalinclude} (\w+)\.py\n", pages)
    assert set(included) == scripts
