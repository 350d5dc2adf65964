"""Small pairs, networks and runs that several test files need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from torch.optim import SGD

from ntdh_bench import distillers
from ntdh_bench.cli import main
from ntdh_bench.datamodules.synthetic import SyntheticDataModule
from ntdh_bench.distillers import Distiller
from ntdh_bench.frozen_teacher import FrozenTeacher
from ntdh_bench.models import DistillationModule, JointModule, MLPClassifier

Module = TypeVar("Module", bound=LightningModule)
FEATURES, CLASSES = 12, 4
network = partial(MLPClassifier, FEATURES, [8, 6], CLASSES, "relu")
optimizer = partial(SGD, lr=0.1, momentum=0.9)
OF_MAPS = (distillers.AT, distillers.ReviewKD)


def small_data(**changes: Any) -> SyntheticDataModule:
    """400 samples of 12 columns in 4 classes, batches of 32, with a validation split."""
    settings: dict[str, Any] = {
        "gap": 0.5, "n_samples": 400, "n_features": FEATURES, "decisive": 5, "val_fraction": 0.2,
        "test_fraction": 0.3, "batch_size": 32,
    }  # fmt: skip
    return SyntheticDataModule(**{**settings, **changes})


def quiet_trainer(folder: Path, epochs: int = 1, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": epochs, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu",
        "default_root_dir": folder, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return Trainer(**{**settings, **changes})


def attached(module: Module, data: Any, folder: Path) -> Module:
    """A module whose trainer knows the data, as in a training step."""
    trainer = quiet_trainer(folder)
    trainer.test(module, datamodule=data, verbose=False)
    module.trainer = trainer
    return module


def joint_checkpoint(
    folder: Path, data: SyntheticDataModule, seed: int = 0, epochs: int = 1
) -> Path:
    """Train the joint pair for an epoch, or some; returns its checkpoint."""
    module = JointModule(network, network, CLASSES, optimizer, seed=seed)
    trainer = quiet_trainer(folder, epochs=epochs)
    trainer.fit(module, datamodule=data)
    path = folder / "joint.ckpt"
    trainer.save_checkpoint(path)
    return path


def distillation(
    checkpoint: Path | None, distiller: Distiller | None = None, **changes: Any
) -> DistillationModule:
    """A DistillationModule with its teacher loaded, if one is given."""
    settings: dict[str, Any] = {"optimizer": optimizer, "distiller": distiller, **changes}
    module = DistillationModule(network, network, CLASSES, **settings)
    if checkpoint is not None:
        module.frozen_teacher.load(checkpoint)
    return module


def methods(layer: str, maps: bool = False) -> dict[str, partial[Distiller]]:
    """Every method of the package by name, small, those of features on ``layer``.

    Those of maps alone are among them if the layer gives ``maps``; SimKD, which compares what a
    student takes that it changes, is not.
    """
    small = {"CRD": {"feat_dim": 4, "negatives": 16}}
    classes = [getattr(distillers, name) for name in distillers.__all__]
    return {
        kind.__name__: partial(
            kind, **{} if kind.by_row else {"layer": layer}, **small.get(kind.__name__, {})
        )
        for kind in classes
        if kind not in (Distiller, distillers.Combined, distillers.SimKD)
        and (maps or kind not in OF_MAPS)
    }


def held(teacher: torch.nn.Module, companion: torch.nn.Module | None = None) -> FrozenTeacher:
    """Networks as a DistillationModule holds them."""
    frozen = FrozenTeacher("joint", torch.nn.Module, torch.nn.Module)
    frozen.hold(teacher, companion)
    return frozen


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bitwise equality of two state dicts."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@cache
def batched_products_are_exact() -> bool:
    """Whether this machine's library rounds batched products as it does single ones."""
    stream = torch.Generator().manual_seed(0)

    def same(rows: int, inner: int, columns: int) -> bool:
        left = torch.randn(3, rows, inner, generator=stream)
        right = torch.randn(3, inner, columns, generator=stream)
        single = torch.stack([a @ b for a, b in zip(left, right, strict=True)])
        return torch.equal(torch.bmm(left, right), single)

    sizes = [(64, 35, 303), (303, 64, 128), (8, 64, 128), (64, 128, 960)]
    return all(same(*size) for size in sizes)


def assert_bits(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """The same bits; up to rounding where batched products are rounded otherwise here."""
    if batched_products_are_exact():
        assert torch.equal(found, wanted)
    scale = float(wanted.detach().abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * scale)


def run_script(script: str) -> None:
    """Run Python code, which asserts what it should, on this tree in a process of its own."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def refusal(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is refused; returns its error, the last line of standard error."""
    assert main(words) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ntdh-bench: error: ")
    return error


def flags(config: Path, folder: Path, *more: str) -> Sequence[str]:
    """Arguments of a quick CPU run of a config."""
    return [
        "--config", str(config), "--run_dir", str(folder), "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", *more,
    ]  # fmt: skip


def fitted(folder: Path, *words: str, status: int = 0) -> Path:
    """Run ``fit`` on the quickstart in ``folder``; returns the folder of the run."""
    before = set(folder.glob("*"))
    assert main(["fit", *flags(Path("configs/quickstart.yaml"), folder, *words)]) == status
    (made,) = set(folder.glob("*")) - before
    return made


def record_of(run: Path) -> dict[str, Any]:
    """Return the record in the folder of a run."""
    record: dict[str, Any] = json.loads((run / "record.json").read_text())
    return record


_BEFORE = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
"""
_AFTER = """
torch.save(result, folder / f"{rank}.part")
os.replace(folder / f"{rank}.part", folder / f"{rank}.pt")
while not (folder / f"{1 - rank}.pt").exists():  # the other one may still need this one
    time.sleep(0.01)
os._exit(0)  # torch's threads can abort an interpreter that shuts down: not what is tested
"""


def run_two_processes(code: str, folder: Path) -> list[Any]:
    """Run Python code as two gloo processes; returns what each left in ``result``.

    The code has ``torch``, ``dist``, its ``rank`` and the ``folder``. Both must succeed.
    """
    shared = {"PYTHONPATH": os.pathsep.join(sys.path), "NODE_RANK": "0"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _BEFORE + code + _AFTER, str(folder)],
            env={**os.environ, **shared, "LOCAL_RANK": f"{rank}"},
        )
        for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@contextmanager
def own_process_group() -> Iterator[None]:
    """Let a process group that is made in the block end with it, and its variables too."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def seconds_per_sample(run: Callable[[], int], repeats: int) -> float:
    """Return the shortest time of some repeats of ``run``, which says how many samples it took."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        count = run()
        best = min(best, (time.perf_counter() - start) / count)
    return best


# Small and simulated, by class; batches of the size that the data then have.
_SMALL: dict[str, dict[str, Any]] = {
    "CameraNet": {"backbone": "resnet18"},
    "DDRNet": {"grid": [60, 36, 60]},
    "PMFNet": {"backbone": "resnet18", "width": 8},
    "TwoDPASSNet": {"backbone": "resnet18", "width": 16},
    "MNISTPairDataModule": {
        "source": "simulated", "simulated_train": 300, "simulated_test": 100, "batch_size": 32,
    },
    "NYUDepthV2DataModule": {
        "source": "simulated", "simulated_rooms": 8, "scale": 0.25, "batch_size": 2,
    },
    "PairedVectorsDataModule": {"source": "simulated", "batch_size": 16},
    "RAVDESSDataModule": {
        "source": "simulated", "simulated_clips": 2, "image_height": 32, "image_width": 64,
        "batch_size": 16,
    },
    "SemanticKITTIDataModule": {
        "source": "simulated", "simulated_frames": 2, "scale": 0.1, "crop": [32, 96],
        "batch_size": 2,
    },
    "SyntheticDataModule": {"n_samples": 300},
}  # fmt: skip


def small_and_simulated(config: Mapping[str, Any]) -> list[str]:
    """Flags that let a config run in seconds, without files."""
    parts = {f"model.{name}": part for name, part in config["model"]["init_args"].items()}
    networks = {flag: part for flag, part in parts.items() if flag.endswith("network") and part}
    return [
        word
        for flag, part in {"data": config["data"], **networks}.items()
        for name, value in _SMALL.get(part["class_path"], {}).items()
        for word in (f"--{flag}.init_args.{name}", str(value))
    ]
