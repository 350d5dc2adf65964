from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from ntdh_bench.paper import authors
from tests.helpers import flags, small_and_simulated

CONFIGS = sorted(Path("configs").glob("*.yaml"))


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = small_and_simulated(read_config(config))
    words = ["fit", *flags(config, tmp_path, *small, "--trainer.fast_dev_run", "true")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "test set, seed 0" in shown
    assert "SIMULATED" in shown
    assert list(tmp_path.iterdir()) == []  # a trial leaves nothing


@pytest.mark.slow
def test_2dpass_trains_at_its_published_rate_and_batch_size(tmp_path: Path) -> None:
    config = Path("configs/semantickitti_2dpass.yaml")
    settings = read_config(config)
    assert settings["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.24
    assert settings["data"]["init_args"]["batch_size"] == 8
    small = ["--data.source", "simulated", "--data.scale", "0.15", "--data.crop", "[48,160]"]
    assert main(["fit", *flags(config, tmp_path, *small, "--trainer.max_epochs", "2")]) == 0


@pytest.mark.parametrize("overlay", sorted(Path("configs/overlays").glob("*.yaml")), ids=str)
def test_every_overlay_runs(overlay: Path, tmp_path: Path) -> None:
    config = Path("configs/mnist_kd.yaml")
    more = ["--config", str(overlay), *small_and_simulated(read_config(config))]
    words = flags(config, tmp_path, *more, "--trainer.fast_dev_run", "true")
    assert main(["fit", *words]) == 0


@pytest.mark.parametrize("preset", [x for x in vars(authors) if x.startswith("Authors")])
def test_the_authors_preset_runs(preset: str, tmp_path: Path) -> None:
    batches = ["--data.batch_size", "64", "--data.steps_per_epoch", "1"]
    more = ["--model.distiller", preset, "--trainer.fast_dev_run", "true", *batches]
    assert main(["fit", *flags(Path("configs/quickstart.yaml"), tmp_path, *more)]) == 0


@pytest.mark.slow
def test_the_ravdess_command_of_its_page_teaches_both(tmp_path: Path) -> None:
    """Chance is 12.5 %."""
    start = "ntdh-bench fit --config configs/ravdess_dkd.yaml --data.source simulated"
    page = Path("docs/datasets/ravdess.md").read_text()
    (command,) = (line for line in page.splitlines() if line.startswith(start))
    more = ["--run_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    assert main([*command.split()[1:], *more]) == 0
    (record,) = tmp_path.rglob("record.json")
    test = json.loads(record.read_text())["metrics"]["last"]["test"]
    assert test["teacher_accuracy"] > 0.3
    assert test["accuracy"] > 0.3


@pytest.mark.slow
def test_the_quickstart_prints_what_the_readme_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for some points, which depend on the versions."""
    (shown,) = re.findall(r"```text\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert main(["fit", *flags(Path("configs/quickstart.yaml"), tmp_path)]) == 0
    printed = capsys.readouterr().out
    number = re.compile(r"\d+\.\d+")
    lines = [number.sub("", line).strip() for line in printed.splitlines()]
    assert [x for x in shown.splitlines() if number.sub("", x).strip() not in lines] == []
    accuracies = [[float(x) for x in re.findall(r"\d\d\.\d\d", text)] for text in (shown, printed)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=3)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_on_its_simulated_source(config: Path, tmp_path: Path) -> None:
    """With its own rates and weights; a loss or a weight that is not finite ends a run."""
    small = small_and_simulated(read_config(config))
    words = ["fit", *flags(config, tmp_path, *small, "--trainer.max_epochs", "2")]
    assert main(words) == 0
    (path,) = tmp_path.rglob("last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())
