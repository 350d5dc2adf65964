from __future__ import annotations

import struct
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from ntdh_bench.errors import FileError
from ntdh_bench.show.events import read_curves


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A run's folder with a log of three steps; returns the log."""
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for step in range(3):
            writer.add_scalar("train/loss", 1 / (step + 1), step * 10)
        writer.add_scalar("val/accuracy", float("nan"), 0)
    (log,) = (tmp_path / "tensorboard").iterdir()
    return log


def test_what_was_logged_is_read(logged: Path) -> None:
    found = read_curves(logged.parents[1])
    assert found.keys() == {"train/loss"}, "what is not finite is left out"
    assert found["train/loss"].steps == (0, 10, 20)
    assert found["train/loss"].values == pytest.approx((1, 1 / 2, 1 / 3))


def test_a_log_that_a_kill_cut_short_is_read_up_to_there(logged: Path) -> None:
    whole = logged.read_bytes()
    logged.write_bytes(whole[: len(whole) - 60])
    assert read_curves(logged.parents[1])["train/loss"].steps[:2] == (0, 10)


def test_no_log_gives_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}


@pytest.mark.parametrize(
    "content",
    [b"no log, but some words", struct.pack("<Q", 1 << 60) + bytes(100),
     struct.pack("<QI", 4, 0) + b"\xff\xff\xff\xff" + bytes(4)],
)  # fmt: skip
def test_a_damaged_log_is_named_and_nothing_is_allocated(logged: Path, content: bytes) -> None:
    logged.write_bytes(content)
    with pytest.raises(FileError) as refused:
        read_curves(logged.parents[1])
    assert str(logged) in str(refused.value)
