"""How many files a new method or data set takes: one class and one YAML outside, few inside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ntdh_bench.cli import main
from ntdh_bench.experiments import load_experiment
from ntdh_bench.sweep.worker import run_config
from tests.helpers import flags

ROOT = Path(__file__).resolve().parents[1]
CLASS = '''
class Angle(Distiller):
    """One minus the cosine of the features of a sample."""

    def forward(self, student, teacher):
        return angle(student, teacher)
'''
FUNCTION = '''

def angle(student, teacher):
    """Mean of one minus the cosine of the rows of student and teacher."""
    student, teacher = unit_rows(student.flatten(1)), unit_rows(teacher.flatten(1))
    width = min(student.shape[1], teacher.shape[1])
    return (1 - (student[:, :width] * teacher[:, :width]).sum(1)).mean()
'''
CONFIG = """
base: {base}
model:
  init_args:
    distiller:
      class_path: {path}
      init_args: {{layer: hidden1}}
"""
DATA_SET = '''
class Waves(PairedDataModule):
    """Sines of one period or of two, seen with a delay."""

    name = "waves"
    num_classes = 2
    source = "simulated"

    def load(self):
        return {"train": self._waves("train", 64), "test": self._waves("test", 32)}

    def _waves(self, split, count):
        target = torch.arange(count) % 2
        time = torch.linspace(0, 2 * torch.pi, 50)
        noise = 0.1 * torch.randn(2, count, 50, generator=generator(0, f"waves/{split}"))
        seen, delayed = ((1 + target[:, None]) * (time + delay) for delay in (0, 1))
        return TensorPairs(seen.sin() + noise[0], delayed.sin() + noise[1], target)

    def identity(self):
        return {"version": 1}
'''
DATA = """
base: {base}
data: {{class_path: {path}, init_args: {{batch_size: 16}}}}
model: {{init_args: {{teacher_network: {{init_args: {{num_classes: 2}}}},
                      student_network: {{init_args: {{num_classes: 2}}}}}}}}
"""
EXPERIMENT = """
title: Waves
base: quickstart
protocols: {two: {seeds: 2, overrides: {trainer.max_epochs: 1, trainer.accelerator: cpu}}}
grids:
  - overrides:
      mask: null
      data.class_path: own_data.Waves
      data.init_args.batch_size: 16
      model.init_args.teacher_network.init_args.num_classes: 2
      model.init_args.student_network.init_args.num_classes: 2
    axes:
      model.init_args.distiller.init_args.temperature: [1.0, 4.0]
"""


def test_another_package_adds_a_method_by_a_class_and_a_config(
    tmp_path: Path, write_module: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    imports = "from ntdh_bench.distillers import Distiller\n"
    imports += "from ntdh_bench.distillers.functional import unit_rows\n"
    write_module("own_method.py", imports + FUNCTION + CLASS)
    config = tmp_path / "angle.yaml"
    config.write_text(CONFIG.format(base="quickstart", path="own_method.Angle"))
    quick = ["--trainer.fast_dev_run", "true", "--data.steps_per_epoch", "2"]
    assert main(["fit", *flags(config, tmp_path, *quick)]) == 0
    assert "test set, seed 0" in capsys.readouterr().out


def test_another_package_adds_a_data_set_by_a_class_and_an_experiment(
    tmp_path: Path, write_module: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is in no catalogue."""
    imports = "import torch\nfrom ntdh_bench.seeding import generator\n"
    imports += "from ntdh_bench.datamodules.paired import PairedDataModule, TensorPairs\n"
    write_module("own_data.py", imports + DATA_SET)
    path = tmp_path / "waves.yaml"
    path.write_text(EXPERIMENT)
    assert main(["sweep", str(path), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert "4 runs, 4 to do" in capsys.readouterr().out
    record = run_config(load_experiment(path).runs[-1].config, tmp_path)
    assert (record["dataset"], record["source"]) == ("waves", "simulated")
    assert record["metrics"]["last"]["test"]["accuracy"] > 0.9


def test_the_method_that_the_readme_shows_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_module: Callable[[str, str], Path]
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, config = re.search(
        r"```python\n(import torch.*?)```\n\n```yaml\n(base: quickstart\n.*?)```", text, re.DOTALL
    ).groups()
    assert len((code + config).splitlines()) <= 20
    write_module("angle.py", code)
    (tmp_path / "angle.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.fast_dev_run", "true", "--data.steps_per_epoch", "2"]
    assert main(["fit", *flags("angle.yaml", tmp_path, *quick)]) == 0


def test_own_arrays_are_a_benchmark_by_the_file_that_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    config = text.split("```yaml\nbase: pairs_kd\n")[1].split("```")[0]
    assert len(config.splitlines()) < 10
    (tmp_path / "mine.yaml").write_text("base: pairs_kd\n" + config)
    rng = np.random.default_rng(0)
    label = np.resize([f"kind {number}" for number in range(15)], 300)
    centres = rng.normal(size=(15, 165))[np.resize(np.arange(15), 300)]
    spectrum, height = np.split(centres + rng.normal(size=centres.shape), [144], axis=1)
    np.savez(tmp_path / "mine.npz", spectrum=spectrum, height=height, label=label)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    assert main(["data", "verify", "mine.npz", "--target", "label"]) == 0
    assert main(["fit", *flags("mine.yaml", tmp_path, "--trainer.max_epochs", "2")]) == 0
    shown = capsys.readouterr().out
    assert "real data" in shown
    record = json.loads(next(tmp_path.glob("*/record.json")).read_text())
    assert (record["dataset"], record["source"]) == ("mine", "real")
    assert record["metrics"]["last"]["test"]["accuracy"] > 0.3


def test_the_ten_minutes_of_the_start_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    config, sweep = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert config in (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    Path("mine.yaml").write_text(config)
    Path("mine_sweep.yaml").write_text(sweep)
    assert main(["data", "verify", "mine.npz", "--target", "label"]) == 0
    methods = {run.labels["method"] for run in load_experiment(Path("mine_sweep.yaml")).runs}
    assert methods == {"without_kd", "KD", "DIST"}
    words = ["--config", "overlays/without_kd", "--trainer.fast_dev_run", "true"]
    assert main(["fit", *flags(Path("mine.yaml"), tmp_path, *words)]) == 0


@pytest.mark.slow
def test_the_package_takes_a_method_in_four_files(tmp_path: Path) -> None:
    """In a copy of the tree; the suite's tests of every method find it by themselves."""
    _copy_tree(tmp_path)
    package = tmp_path / "ntdh_bench" / "distillers"
    imports = "from ntdh_bench.distillers.base import Distiller\n"
    imports += "from ntdh_bench.distillers.functional import angle\n\n"
    (package / "angle.py").write_text(imports + CLASS)
    _change(package / "functional.py", r"__all__ = \[", '__all__ = ["angle", ')
    _change(package / "functional.py", r"\Z", FUNCTION.replace("\ndef", "\n@full_precision\ndef"))
    _change(
        package / "__init__.py", r"\n\n__all__ = \[", r'\nfrom .angle import Angle\g<0>"Angle",'
    )
    overlay = CONFIG.format(base="none", path="Angle").replace("base: none\n", "")
    (tmp_path / "configs" / "methods" / "angle.yaml").write_text(overlay)
    assert _passed(tmp_path, "angle", "tests/ntdh_bench/distillers", "tests/models") > 20


@pytest.mark.slow
def test_the_package_takes_a_data_set_of_vectors_in_three_files(tmp_path: Path) -> None:
    """In a copy of the tree: its module, its name, its config."""
    _copy_tree(tmp_path)
    package = tmp_path / "datamodules"
    imports = "import torch\nfrom ntdh_bench.seeding import generator\n"
    imports += "from .paired import PairedDataModule, TensorPairs\n"
    (package / "waves.py").write_text(imports + DATA_SET)
    _change(package / "plugin.py", r"\Z", "from .waves import Waves as Waves\n")
    (tmp_path / "configs" / "waves_kd.yaml").write_text(
        DATA.format(base="synthetic_converged.yaml", path="Waves")
    )
    assert _passed(tmp_path, "waves") == 1


def _copy_tree(target: Path) -> None:
    for folder in ("ntdh_bench", "datamodules", "models", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, target / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", target)


def _passed(tree: Path, name: str, *tests: str) -> int:
    """Return how many tests of configs, and of others, whose id has the name pass in a tree."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name,
         "tests/configs/test_configs.py", *tests],
        cwd=tree, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    print(result.stdout)
    assert result.returncode == 0
    (passed,) = re.findall(r"(\d+) passed", result.stdout)
    return int(passed)


def _change(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text())
    assert count == 1
    path.write_text(text)
