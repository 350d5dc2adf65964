"""How many files a new method takes: one class and one config outside, four files inside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ntdh_bench.cli import main
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


@pytest.mark.slow
def test_the_package_takes_a_method_in_four_files(tmp_path: Path) -> None:
    """In a copy of the tree; the suite's tests of every method find it by themselves."""
    for folder in ("ntdh_bench", "datamodules", "models", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "ntdh_bench" / "distillers"
    imports = "from ntdh_bench.distillers.base import Distiller\n"
    imports += "from ntdh_bench.distillers.functional import angle\n\n"
    (package / "angle.py").write_text(imports + CLASS)
    _change(package / "functional.py", r"__all__ = \[", '__all__ = ["angle", ')
    _change(package / "functional.py", r"\Z", FUNCTION.replace("\ndef", "\n@full_precision\ndef"))
    _change(
        package / "__init__.py", r"\n\n__all__ = \[", r'\nfrom .angle import Angle\g<0>"Angle",'
    )
    (tmp_path / "configs" / "mnist_angle.yaml").write_text(
        CONFIG.format(base="base/mnist.yaml", path="Angle")
    )
    tests = ["tests/ntdh_bench/distillers", "tests/models", "tests/configs/test_configs.py"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "angle", *tests],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    print(result.stdout)
    assert result.returncode == 0
    (passed,) = re.findall(r"(\d+) passed", result.stdout)
    assert int(passed) > 20


def _change(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text())
    assert count == 1
    path.write_text(text)
