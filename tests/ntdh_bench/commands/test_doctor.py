from __future__ import annotations

import errno
import json
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench.cli import main
from ntdh_bench.commands import doctor
from tests.helpers import run_script


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "gpus", list)


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    lines = [line for line in capsys.readouterr().out.split("\n\n")[0].splitlines() if line]
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        state, what, text = re.split(r" {2,}", line, maxsplit=2)
        found[what] = state, text
    return found


def test_a_sound_installation_lacks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    found = findings(capsys)
    assert f"torch {metadata.version('torch')}" in found["packages"][1]
    assert found["gpu"] == ("ok", "none: runs use the CPU")
    assert {"ntdh-bench", "python", "configs", "data root", "cache", "runs"} <= found.keys()
    assert "broken" not in {state for state, _ in found.values()}


def test_an_old_package_and_one_that_is_missing_are_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = ["torch>=99", "no-such-package>=1", "rich>=13.7", 'ray>=9999; extra == "ray"']
    monkeypatch.setattr(doctor, "requires", lambda name: needs)
    assert main(["doctor"]) == 1
    found = findings(capsys)
    assert found["torch"][0] == found["no-such-package"][0] == "broken"
    assert "torch" not in found["packages"][1]
    assert found["ray"][0] == "note"
    assert "rich" not in found


def test_a_folder_that_cannot_be_written_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 1
    assert findings(capsys)["cache"][0] == "broken"


def test_a_folder_that_is_closed_to_the_user_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stat = os.stat

    def closed(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path / 'closed'}{os.sep}"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *args, **options)

    (tmp_path / "closed").mkdir()
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "closed" / "x" / "cache"))
    monkeypatch.setattr(os, "stat", closed)
    assert main(["doctor"]) == 0
    assert "closed/x/cache" in findings(capsys)["cache"][1]
    assert main(["doctor", "--root", str(tmp_path / "closed" / "data")]) == 1
    state, text = findings(capsys)["data root"]
    assert state == "broken"
    assert f"{tmp_path}/closed/data is closed to you" in text


def test_gpus_that_torch_does_not_see_are_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = "import json; print(json.dumps({'cuda': None, 'gpus': [], 'bf16': False}))"
    monkeypatch.setattr(doctor, "gpus", lambda: ["0"])
    monkeypatch.setattr(doctor, "_PROBE", probe.replace("{", "{{").replace("}", "}}"))
    assert main(["doctor"]) == 1
    state, text = findings(capsys)["gpu"]
    assert state == "broken"
    assert "torch sees 0 (built for no CUDA)" in text


def test_what_fails_to_import_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_PROBE", "raise ImportError('torchvision::nms does not exist')")
    assert main(["doctor", "--imports"]) == 1
    assert "torchvision::nms does not exist" in findings(capsys)["imports"][1]


@pytest.mark.slow
def test_the_probe_names_what_is_seen() -> None:
    run_script(
        "import io, contextlib, json\n"
        "from ntdh_bench.commands import doctor\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out):\n"
        "    exec(doctor._PROBE.format(groups=doctor._GROUPS))\n"
        f"assert json.loads(out.getvalue()).keys() == {set(json.loads(SEEN))!r}\n"
    )


SEEN = '{"cuda": null, "gpus": [], "bf16": false}'
