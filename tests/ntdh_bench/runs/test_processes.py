from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.strategies import StrategyRegistry

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


def test_weights_in_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*flags(Path("configs/quickstart.yaml"), tmp_path), *SHARDED, "--trainer.devices", "2"]
    error = refusal(["fit", *words], capsys)
    assert "fsdp_on_cpu, which leaves each of 2 processes a part of the weights" in error
    assert not list(tmp_path.iterdir())
