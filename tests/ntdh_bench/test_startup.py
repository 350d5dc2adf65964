from __future__ import annotations

import gc
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ntdh_bench import startup
from tests.helpers import run_script

# Seconds of imports that a student of small networks does not need.
NEEDLESS = (
    "torchvision", "torchaudio", "torchmetrics.functional", "torchmetrics.classification", "scipy",
    "sklearn", "h5py", "librosa", "av", "tensorboard", "pandas", "transformers",
)  # fmt: skip
SCRIPT = f"""\
import sys
from ntdh_bench.composition import find_config, read_config
from ntdh_bench.sweep.execution import load_function
load_function("ntdh_bench.sweep.worker:run_config")
from ntdh_bench.runs import Run
Run.parse("fit", config=read_config(find_config("mnist_kd")))
needless = set({NEEDLESS!r}) & sys.modules.keys()
assert not needless, needless

import torchmetrics
from lightning.pytorch.core import module
assert torchmetrics.Metric is module.Metric and torchmetrics.MetricCollection
assert not hasattr(torchmetrics, "nothing_of_the_kind")
assert "torchmetrics.functional" not in sys.modules
from torchmetrics import Accuracy
assert "torchmetrics.functional" in sys.modules
assert torchmetrics.functional.accuracy and issubclass(torchmetrics.MeanMetric, module.Metric)
missing = [name for name in torchmetrics.__all__ if not hasattr(torchmetrics, name)]
assert not missing, missing
"""


def test_a_worker_imports_what_it_needs_and_torchmetrics_the_rest_when_asked() -> None:
    run_script(SCRIPT)


def light(loader: Any) -> ModuleType:
    module = ModuleType("light")
    module.__spec__ = ModuleSpec("light", loader)
    vars(module).update(there=1, _left=frozenset({"one", "other"}))
    module.__class__ = startup._Light
    return module


def test_a_light_package_is_executed_once_and_when_it_must_be() -> None:
    executed: list[ModuleType] = []

    def execute(module: Any) -> None:
        executed.append(module)
        assert not hasattr(module, "other")  # asked for while it is executed: what is there
        module.one, module.other = 1, 2

    module: Any = light(SimpleNamespace(exec_module=execute))
    assert module.there == 1
    assert not hasattr(module, "third")
    assert not executed
    assert (module.one, module.other) == (1, 2)
    assert executed == [module]
    assert not hasattr(module, "third")


def test_a_light_package_that_cannot_be_executed_says_so_each_time() -> None:
    def execute(module: ModuleType) -> None:
        raise ImportError("no torchvision")

    module: Any = light(SimpleNamespace(exec_module=execute))
    for _ in range(2):
        with pytest.raises(ImportError, match="no torchvision"):
            _ = module.one
    assert module.there == 1


def test_nothing_is_collected_while_a_module_is_imported(tmp_path: Path) -> None:
    frozen = gc.get_freeze_count()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        (tmp_path / "imported_once.py").write_text("import gc; ENABLED = gc.isenabled()")
        module: Any = startup.import_once("imported_once")
        assert module.ENABLED is False
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
        frozen = gc.get_freeze_count()
        assert startup.import_once("imported_once") is module
        assert gc.get_freeze_count() <= frozen  # frozen objects may go, none may come
        with pytest.raises(ImportError):
            startup.import_once("not_there_at_all")
        assert gc.isenabled()
        del sys.modules["imported_once"]
        gc.unfreeze()
