from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from ntdh_bench.runs.processes import build_trainer
from tests.fsdp import FSDPOnCPU
from tests.helpers import fitted, flags, own_process_group, record_of, refusal

SHARDED = ["--trainer.strategy", "fsdp_on_cpu", "--trainer.max_epochs", "1"]


@pytest.fixture(autouse=True)
def _fsdp() -> Iterator[None]:
    """Make the strategy known by a name."""
    StrategyRegistry.register("fsdp_on_cpu", FSDPOnCPU)
    with own_process_group():
        yield
    StrategyRegistry.remove("fsdp_on_cpu")


@pytest.mark.filterwarnings("ignore:.*(NO_SHARD|FSDP.state_dict_type|sync_dist=True)")
def test_fsdp_on_one_device_trains_and_measures_as_without(tmp_path: Path) -> None:
    metrics = []
    for name, words in {"sharded": SHARDED, "alone": SHARDED[2:]}.items():
        (tmp_path / name).mkdir()
        run = fitted(tmp_path / name, "--trainer.devices", "1", *words)
        metrics.append(record_of(run)["metrics"]["last"]["test"])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)


@pytest.mark.parametrize("leaves_none", ["enable_checkpointing false", "fast_dev_run true"])
def test_weights_in_parts_need_a_checkpoint(
    leaves_none: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*flags(Path("configs/quickstart.yaml"), tmp_path), *SHARDED, "--trainer.devices", "2"]
    flag, value = leaves_none.split()
    error = refusal(["fit", *words, f"--trainer.{flag}", value], capsys)
    assert "fsdp_on_cpu, which leaves each process a part of the weights" in error
    assert not list(tmp_path.iterdir())


def test_what_measures_has_whole_weights() -> None:
    settings = {"strategy": "fsdp_on_cpu", "accelerator": "cpu", "devices": 2, "logger": False}
    assert isinstance(build_trainer(settings).strategy, FSDPOnCPU)
    measures = build_trainer(settings, trains=False)
    assert isinstance(measures.strategy, DDPStrategy)
    assert measures.world_size == 2
    alone = {**settings, "devices": 1}
    assert isinstance(build_trainer(alone, trains=False).strategy, FSDPOnCPU)
