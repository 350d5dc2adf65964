from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntdh_bench.datamodules.pairs.arrays import read_arrays
from ntdh_bench.datamodules.pairs.layouts import inner
from ntdh_bench.datamodules.pairs.lis_emg_imu import LIS
from ntdh_bench.datamodules.pairs.published import npz_of
from ntdh_bench.datamodules.pairs.seglearn_watch import SEGLEARN_WATCH
from ntdh_bench.datamodules.pairs.wiki import WIKI
from ntdh_bench.datasets import write_marker
from ntdh_bench.errors import UserError


@pytest.mark.parametrize("inside", ["", "seglearn_watch", "seglearn_watch/seglearn/data"])
def test_what_was_simulated_never_becomes_real(inside: str, tmp_path: Path) -> None:
    assert SEGLEARN_WATCH.sample is not None
    assert SEGLEARN_WATCH.prepare is not None
    SEGLEARN_WATCH.sample(tmp_path / "made", 0)
    root = tmp_path / "real"
    with pytest.raises(UserError, match=r"simulated data: (name|take)"):
        list(SEGLEARN_WATCH.prepare(root, tmp_path / "made" / inside))
    assert not root.exists()


def test_a_folder_found_inside_may_be_simulated(tmp_path: Path) -> None:
    write_marker(tmp_path / "wikipedia", {})
    with pytest.raises(UserError, match="holds simulated data: take the published files"):
        inner(tmp_path, "wikipedia")
    write_marker(tmp_path, {})
    assert inner(tmp_path, "wikipedia") == tmp_path / "wikipedia"


def test_prepared_again_it_stays_and_another_file_is_not_replaced(tmp_path: Path) -> None:
    assert WIKI.prepare is not None
    for seed in (0, 1):
        WIKI.write(tmp_path / str(seed), seed)
    first, *_ = WIKI.prepare(tmp_path, tmp_path / "0")
    content = npz_of(tmp_path, WIKI.name).read_bytes()
    again, *_ = WIKI.prepare(tmp_path, tmp_path / "0")
    assert again == f"{first}, as they were there already"
    with pytest.raises(UserError, match="holds other arrays: move it away"):
        WIKI.prepare(tmp_path, tmp_path / "1")
    assert npz_of(tmp_path, WIKI.name).read_bytes() == content


def test_a_part_of_a_set_is_told(tmp_path: Path) -> None:
    assert WIKI.prepare is not None
    assert WIKI.verify is not None
    WIKI.write(tmp_path / "part", 0)
    _, told = WIKI.prepare(tmp_path, tmp_path / "part")
    assert told == "not the published set, which has 2,866 samples, not 1,000"
    wrong = [check for check in WIKI.verify(tmp_path) if check.state != "ok"]
    assert [(check.state, check.note) for check in wrong] == [("incomplete", told)]
    write_marker(tmp_path / "pairs", {})
    assert all(check.state == "ok" for check in WIKI.verify(tmp_path))


def test_sampled_again_with_another_seed(tmp_path: Path) -> None:
    assert LIS.sample is not None
    for seed in (0, 1):
        LIS.sample(tmp_path / "both", seed)
    LIS.sample(tmp_path / "one", 1)
    both, one = (read_arrays(npz_of(tmp_path / name, LIS.name)) for name in ("both", "one"))
    assert len(both) == len(one)
    assert np.array_equal(both.modalities["emg"], one.modalities["emg"])
