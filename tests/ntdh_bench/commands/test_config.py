from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config, shipped_configs
from ntdh_bench.experiments import load_experiment, shipped_experiments
from ntdh_bench.parsing.parser import BenchCLI
from tests.helpers import refusal


def test_every_shipped_config_is_listed_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed.keys() == shipped_configs().keys() >= {"quickstart", "overlays/without_kd"}
    assert listed["mnist_kd"].startswith("KD (Hinton et al. 2015)")


def test_what_is_shown_is_what_runs_get(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("base: [mnist_kd, overlays/without_kd]\ndata: {init_args: {root: here}}\n")
    assert main(["config", "show", str(own), "overlays/sample_mask"]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    written_out = yaml.safe_load(shown.read_text())
    assert "base" not in written_out
    assert written_out["data"]["init_args"]["root"] == "here"  # not relative to the file
    composed = BenchCLI("fit", ["--config", str(own), "--config", "overlays/sample_mask"])
    assert composed.plain == BenchCLI("fit", ["--config", str(shown)]).plain


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["config", "show", "mnist_dkt"], ["fit", "--config", "mnist_dkt"]):
        assert "mnist_dkt is missing" in (error := refusal(words, capsys))
        assert "such as mnist_pkt, mnist_dkd" in error


def test_experiments_are_listed_with_their_titles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list", "--sweeps"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed.keys() == shipped_experiments().keys()
    assert listed["smoke"].startswith("Smoke test")


def test_every_copy_is_read_as_what_it_is_a_copy_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (name, path) in enumerate(shipped_configs().items()):
        target = tmp_path / f"{number}.yaml"
        assert main(["config", "copy", name, str(target)]) == 0
        assert read_config(target) == read_config(path), name
    assert main(["config", "copy", "overlays/without_kd"]) == 0
    assert (tmp_path / "without_kd.yaml").read_text().startswith("# The same student")  # comments
    for name in ("smoke", "table1", "table4"):
        assert main(["config", "copy", f"sweeps/{name}"]) == 0
        assert (
            load_experiment(tmp_path / f"{name}.yaml").runs
            == load_experiment(shipped_experiments()[name]).runs
        )


def test_a_copy_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("mine")
    assert "is there already" in refusal(["config", "copy", "mnist_kd", str(mine)], capsys)
    assert mine.read_text() == "mine"
    assert "suffix .yaml" in refusal(["config", "copy", "mnist_kd", str(tmp_path / "x")], capsys)
    assert "such as mnist_dkd" in refusal(["config", "copy", "mnist_dkdd"], capsys)
    assert "such as smoke" in refusal(["config", "copy", "sweeps/smok"], capsys)
