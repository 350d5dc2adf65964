"""Runs of configs on a GPU: every method, precision, strategy and kind of data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from tests.gpu.device import needs_gpu
from tests.helpers import flags, own_process_group, record_of, small_and_simulated
from tests.ntdh_bench.runs import test_stacks

pytestmark = [*needs_gpu, pytest.mark.filterwarnings("ignore:.*(NO_SHARD|FSDP.state_dict_type)")]
METHODS = ("kd", "fitnet", "crd", "rkd", "pkt", "sp", "dkd")
WAYS: dict[str, list[str]] = {
    "bf16-mixed": ["--trainer.precision", "bf16-mixed"],
    "16-mixed": ["--trainer.precision", "16-mixed"],
    "deterministic": ["--trainer.deterministic", "true"],
    "workers": ["--data.num_workers", "2"],
    "ddp": ["--trainer.strategy", "ddp"],
    "fsdp": ["--trainer.strategy", "fsdp"],
}
ONE_GPU = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]


@pytest.fixture(autouse=True)
def _own_process_group() -> Iterator[None]:
    with own_process_group():
        yield


def run(name: str, folder: Path, *words: str) -> dict[str, Any]:
    """Fit a config on small simulated data; returns its record."""
    config = Path(f"configs/{name}.yaml")
    before = set(folder.iterdir())
    small = small_and_simulated(read_config(config))
    assert main(["fit", *flags(config, folder, *small, "--trainer.logger", "false", *words)]) == 0
    (made,) = set(folder.iterdir()) - before
    state = torch.load(made / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    return record_of(made)


def measured(record: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = record["metrics"]["last"]["test"]
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_where_the_cpu_does(method: str, tmp_path: Path) -> None:
    """With the CPU's teacher, which the cache keeps, and 2 of the 100 test samples to err by."""
    words = ["--trainer.max_epochs", "2"]
    here = run(f"mnist_{method}", tmp_path, *words)
    there = run(f"mnist_{method}", tmp_path, *words, *ONE_GPU)
    assert there["environment"]["device"] == torch.cuda.get_device_name()
    assert measured(there) == pytest.approx(measured(here), rel=1e-2, abs=0.02)


def assert_ends_as_alone(
    runs: Sequence[list[str]], stacked: Sequence[dict[str, Any]], folder: Path
) -> None:
    for number, (words, record) in enumerate(zip(runs, stacked, strict=True)):
        alone = test_stacks.alone(words, folder / str(number))
        assert record["stack"] == len(runs)
        assert measured(record) == pytest.approx(measured(alone), rel=1e-2, abs=0.02)


def test_a_stack_ends_where_its_runs_do(tmp_path: Path) -> None:
    """All methods, with joint teachers of several distances."""
    dists = [], ["--model.teacher_dist", "ncjsd"], ["--model.teacher_dist_weight", "0.1"]
    runs = [
        test_stacks.settings(
            *test_stacks.method(method), *dists[number % 3], *ONE_GPU, seed=number % 2
        )
        for number, method in enumerate(test_stacks.METHODS)
    ]
    stacked = test_stacks.together(runs, tmp_path / "stack")
    assert_ends_as_alone(runs, stacked, tmp_path)


def test_a_stack_under_interventions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Changed teachers are looked up, an epoch at a time, by steps that are recorded."""
    changes = ("ShuffleNontarget", "AlignNontarget", "ClassNontarget", "ShuffleTarget")
    words = [["--model.intervention", c, "--model.intervention.share", "0.5"] for c in changes]
    words += [["--mask", "FeatureMask", "--mask.ratio", "0.5", "--mask.removes", "random"]]
    words += [[], ["--model.distiller", "null"]]
    alike = [*test_stacks.method("KD"), "--model.teacher", "independent", *ONE_GPU]
    runs = [
        test_stacks.settings(*alike, *each, seed=number % 2) for number, each in enumerate(words)
    ]
    stacked = test_stacks.together(runs, tmp_path / "stack")
    assert "without a CUDA graph" not in "".join(capsys.readouterr())
    assert_ends_as_alone(runs, stacked, tmp_path)


def masked(folder: Path, *words: str) -> dict[str, float]:
    """Train teacher and student and run Algorithm 1 on the GPU; returns what the test measures."""
    mask = ["--config", "configs/overlays/feature_mask.yaml", "--trainer.max_epochs", "1"]
    return measured(run("mnist_dkd", folder, *mask, *ONE_GPU, "--no-cache", *words))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return masked(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train(way: str, plain: dict[str, float], tmp_path: Path) -> None:
    """Half precision may err by a tenth; whatever else is changed, it is the same training."""
    close = 0.1 if "16" in way else 0.02
    assert masked(tmp_path, *WAYS[way]) == pytest.approx(plain, rel=close, abs=close)


@pytest.mark.parametrize("name", [
    "ravdess_features_dkd", "ravdess_dkd", "semantickitti_dkd", "semantickitti_pmf",
    "semantickitti_2dpass", "nyuv2_seg_dkd", "nyuv2_ssc_kd",
])  # fmt: skip
def test_every_kind_of_data(name: str, tmp_path: Path) -> None:
    record = run(name, tmp_path, *ONE_GPU, "--trainer.max_epochs", "1")
    found = measured(record)
    assert all(math.isfinite(value) for value in found.values())
    assert 0 <= found[record["measure"]] <= 1
