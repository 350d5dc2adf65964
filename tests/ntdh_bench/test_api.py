"""The suite from Python: names that are imported when asked for, and ``fit``."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sklearn.datasets  # noqa: F401 (its import sets variables, in whatever run is the first)
import torch
from torch import nn
from torch.optim import SGD

import ntdh_bench as nb
from ntdh_bench import api, runs
from ntdh_bench.cli import main
from ntdh_bench.datamodules import SyntheticDataModule
from ntdh_bench.distillers import DKD, KD
from ntdh_bench.models import DistillationModule, MLPClassifier
from ntdh_bench.runs import Run
from tests.helpers import equal, record_of, run_script, weights

SHORT = {
    "mask": None, "trainer.max_epochs": 2, "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False, "trainer.logger": False, "data.steps_per_epoch": 3,
    "data.n_samples": 400,
}  # fmt: skip
CONTROL = ["quickstart", "overlays/without_kd"]


class Rectified(nn.Module):
    """A network of the user's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(50, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


@pytest.fixture
def short(tmp_path: Path) -> dict[str, Any]:
    return {**SHORT, "run_dir": tmp_path / "runs"}


def settings(*configs: Any, **flags: Any) -> Any:
    """Return the settings that ``fit`` would run with."""
    words = api._words({name.replace("__", "."): value for name, value in flags.items()})
    return Run.parse("fit", words, config=api._merged(list(configs))).config


# -- names ---------------------------------------------------------------------------------------


def test_names_are_imported_when_they_are_asked_for() -> None:
    run_script(
        "import sys, ntdh_bench as nb\n"
        "assert set(nb.__all__) <= set(dir(nb))\n"
        "from ntdh_bench import UserError\n"
        "assert not hasattr(nb, 'fti')\n"
        "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys()\n"
    )


def test_every_name_is_there() -> None:
    from ntdh_bench import datamodules, distillers, divergence, interventions, masks, models

    for module in (datamodules, distillers, divergence, interventions, masks, models):
        assert getattr(nb, module.__name__.rpartition(".")[2]) is module
    assert nb.fit is api.fit
    assert nb.Result is api.Result
    assert all(hasattr(nb, name) for name in nb.__all__)


# -- runs ----------------------------------------------------------------------------------------


def test_fit_gives_what_the_command_leaves_and_the_gain_over_its_control(
    short: dict[str, Any], tmp_path: Path
) -> None:
    control = nb.fit(CONTROL, short)
    result = nb.fit("quickstart", short)
    assert result.folder.parent == tmp_path / "runs"
    assert record_of(result.folder) == {"schema": 4, **json.loads(json.dumps(result.record))}
    assert result.metrics == result.record["metrics"]["last"]["test"]
    assert result.best == result.record["metrics"]["best"]["test"]
    over = result.metrics["accuracy"] - control.metrics["accuracy"]
    assert result.gains == {"without_kd": over}
    assert control.gains == {}
    words = [word for name, value in api_words(short) for word in (f"--{name}", value)]
    assert main(["fit", "--config", "quickstart", *words]) == 0
    command = record_of(max((tmp_path / "runs").iterdir(), key=lambda path: path.stat().st_ctime))
    for key in ("config_hash", "metrics", "curves", "teacher_hash"):
        assert command[key] == result.record[key]


def api_words(flags: dict[str, Any]) -> list[tuple[str, str]]:
    texts = {None: "null", False: "false"}
    return [(name, texts.get(value, str(value))) for name, value in flags.items()]


def test_the_module_is_that_of_the_last_epoch(short: dict[str, Any]) -> None:
    result = nb.fit("quickstart", {**short, "trainer.max_epochs": 6, "data.steps_per_epoch": 10})
    last, best = (result.record["metrics"][kind]["checkpoint"] for kind in ("last", "best"))
    folder = result.folder / "checkpoints"
    of_last, of_best = (torch.load(folder / name)["state_dict"] for name in (last, best))
    assert equal(weights(result.module), of_last)
    assert not equal(of_last, of_best)
    assert not result.module.training
    assert result.module(torch.zeros(3, 50)).shape == (3, 4)


def test_a_trial_leaves_nothing(short: dict[str, Any], tmp_path: Path) -> None:
    result = nb.fit("quickstart", {**short, "trainer.fast_dev_run": True})
    assert result.metrics["accuracy"] >= 0
    assert not (tmp_path / "runs").exists()
    assert not result.folder.exists()


def state() -> dict[str, Any]:
    """What else in a process might depend on what ran before."""
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "warnings": list(warnings.filters),
        "logs": [logging.getLogger(f"lightning.{part}").level for part in ("pytorch", "fabric")],
        "torch settings": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
        ),
        "folder": Path.cwd(),
        "arguments": list(sys.argv),
    }


def test_twice_in_a_process_gives_the_same_and_leaves_it_as_it_was(
    short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    deterministic = {**short, "trainer.deterministic": True, "trainer.benchmark": True}
    before = state()
    results = [nb.fit("quickstart", deterministic)]
    assert state() == before
    torch.manual_seed(5)
    results += [nb.fit("quickstart", deterministic)]
    assert results[0].metrics == results[1].metrics
    assert results[0].folder != results[1].folder
    assert equal(weights(results[0].module), weights(results[1].module))


@pytest.mark.parametrize(
    ("configs", "flags", "message"),
    [
        ("quickstrat", {}, "quickstrat is missing"),
        ("quickstart", {"data.gap": 2}, "data.gap is 2"),
        ("quickstart", {"data.nonsense": 1}, "nonsense"),
        ("quickstart", {"model.distiller": KD()}, "model.distiller is a KD that was made already"),
        ("quickstart", {"data.gap": np.float32(0.5)}, "data.gap is a float32"),
        ("quickstart", {"model.student_network": lambda: None}, "define it at the top of a module"),
        ("quickstart", {"model.distiller": partial(KD, 1, 2, 3, 4, 5)}, "too many positional"),
    ],
)
def test_what_is_wrong_is_an_error_of_one_line_and_nothing_is_changed(
    configs: Any, flags: dict[str, Any], message: str, short: dict[str, Any], tmp_path: Path
) -> None:
    before = state()
    with pytest.raises(nb.UserError, match=message):
        nb.fit(configs, {**short, **flags})
    assert state() == before
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_run_says_how_to_go_on(
    short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(DistillationModule, "training_step", stop)
    before = state()
    with pytest.raises(KeyboardInterrupt, match="ntdh-bench fit --config"):
        nb.fit("quickstart", short)
    assert state() == before


# -- settings ------------------------------------------------------------------------------------


def test_later_configs_win_and_flags_over_all() -> None:
    overlay = {"data": {"init_args": {"gap": 0.3, "n_samples": 900}}, "seed_everything": 3}
    found = settings("quickstart", overlay, data__gap=0.25, mask__ratio=0.5)
    assert found["data"]["init_args"]["gap"] == 0.25
    assert found["data"]["init_args"]["n_samples"] == 900
    assert found["data"]["init_args"]["steps_per_epoch"] == 30  # of the quickstart
    assert found["seed_everything"] == 3
    assert found["mask"]["init_args"]["ratio"] == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_dir", "null of 3: [x]"),
        ("no_cache", True),
        ("no_cache", False),
        ("ckpt_path", None),
        ("trainer.limit_train_batches", 0.125),
        ("trainer.devices", [0]),
        ("trainer.fast_dev_run", True),
        ("data.class_sep", 1e-5),
    ],
)
def test_flags_mean_what_they_are(name: str, value: Any) -> None:
    found: Any = settings("quickstart", **{name.replace(".", "__"): value})
    for key in name.replace("data.", "data.init_args.").split("."):
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_classes_and_functions_stand_for_their_names() -> None:
    by_name = settings("quickstart", model__distiller={"class_path": "DKD"})
    assert settings("quickstart", model__distiller=DKD) == by_name
    network = partial(MLPClassifier, 50, hidden=(8,), num_classes=4)
    found = settings("quickstart", model__student_network=network, model__optimizer=SGD)
    arguments = found["model"]["init_args"]
    assert arguments["student_network"]["class_path"] == "ntdh_bench.models.MLPClassifier"
    assert arguments["student_network"]["init_args"]["in_features"] == 50
    assert arguments["student_network"]["init_args"]["hidden"] == [8]
    assert arguments["optimizer"]["class_path"] == "torch.optim.SGD"


def test_a_run_of_ones_own_classes(short: dict[str, Any]) -> None:
    """Without any config: each part is a class with its arguments."""
    made = {
        "model": partial(
            DistillationModule,
            teacher_network=partial(MLPClassifier, 50, [8], 4),
            student_network=partial(Rectified, width=8),
            distiller=partial(DKD, beta=4.0),
            optimizer=partial(SGD, lr=0.1),
        ),
        "data": partial(SyntheticDataModule, gap=0.5, batch_size=64, num_workers=0),
        "trainer": {"max_epochs": 1},
    }
    flags = {**short, "data.steps_per_epoch": 1}
    result = nb.fit(made, {**flags, "trainer.max_epochs": 1})
    arguments = result.record["config"]["model"]["init_args"]
    name = f"{__name__}.Rectified"
    assert arguments["student_network"] == {"class_path": name, "init_args": {"width": 8}}
    assert arguments["distiller"]["init_args"]["beta"] == 4.0
    assert isinstance(result.module.student, Rectified)
    again = runs.Run.parse("test", ["--ckpt_path", str(result.folder / "checkpoints/last.ckpt")])
    assert runs.measure(again) == result.metrics


def test_a_class_of_a_notebook_runs_and_all_cells_are_its_code(
    short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook: Any = ModuleType("__main__")
    notebook.Loss = type("Loss", (KD,), {"__module__": "__main__"})
    notebook.In = ["class Loss(KD): ...", "%not python"]
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    first = nb.fit("quickstart", {**short, "model.distiller": notebook.Loss})
    loss = first.record["config"]["model"]["init_args"]["distiller"]
    assert loss["class_path"] == "__main__.Loss"
    notebook.In.append("class Loss(KD): # edited")
    second = nb.fit("quickstart", {**short, "model.distiller": notebook.Loss})
    assert first.record["config_hash"] != second.record["config_hash"]
    assert second.record["teacher"] == "cached"  # which has nothing to do with the loss
    del notebook.In
    with pytest.raises(nb.UserError, match="typed at a prompt, which keeps no code"):
        nb.fit("quickstart", {**short, "model.distiller": notebook.Loss})
