from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench import datamodules
from ntdh_bench.batch import Split
from ntdh_bench.datamodules.files import FilePairs
from ntdh_bench.datamodules.paired import PairedDataset, TensorPairs
from ntdh_bench.datasets import write_marker
from ntdh_bench.errors import UserError


def write(root: Path, seed: int, last: int) -> None:
    write_marker(root / "numbers", {})
    (root / "numbers" / "list.txt").write_text(" ".join(map(str, range(seed, last))))


class Listed(FilePairs):
    """The numbers of a file."""

    name = "listed"
    num_classes = 2

    def __init__(self, last: int = 9, **shared: Any) -> None:
        super().__init__(**shared)
        self.last = last

    def folders(self, root: Path) -> list[Path]:
        return [root / "numbers"]

    def simulation(self) -> tuple[dict[str, Any], Callable[..., None]]:
        return {"last": self.last}, lambda root, seed: write(root, seed, self.last)

    def load(self) -> dict[Split, PairedDataset]:
        text = (self.locate() / "numbers" / "list.txt").read_text()
        values = torch.tensor([float(word) for word in text.split()])[:, None]
        pairs = TensorPairs(values, values, values[:, 0].long() % 2)
        return {"train": pairs, "test": pairs}

    def identity(self) -> dict[str, Any]:
        return {}


def test_simulated_files_are_written_once_for_what_they_depend_on(tmp_path: Path) -> None:
    def root(**changes: Any) -> Path:
        return Listed(source="simulated", cache_dir=str(tmp_path), **changes).simulated_root()

    file = root() / "numbers" / "list.txt"
    before = file.stat().st_mtime_ns
    assert root(seed=5) == root()  # the run's seed is not theirs
    assert file.stat().st_mtime_ns == before
    assert len({root(), root(data_seed=1), root(last=7)}) == 3
    assert root().parent == tmp_path / "simulated"


def test_source_is_what_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Listed(source="simulated", cache_dir=str(tmp_path / "cache"), data_seed=3)
    assert simulated.num_train == 6
    write(tmp_path, 0, 4)
    marked = Listed(root=str(tmp_path))
    assert (marked.num_train, marked.source) == (4, "simulated")
    (tmp_path / "numbers" / "SIMULATED.json").unlink()
    monkeypatch.setenv("NTDH_DATA", str(tmp_path))
    real = Listed()
    assert (real.num_train, real.source) == (4, "real")
    assert real.fingerprint != marked.fingerprint


def test_what_is_shared_is_checked() -> None:
    with pytest.raises(UserError, match=r"data\.source is 'fake': choose one of real, simulated"):
        Listed(source="fake")
    with pytest.raises(UserError, match=r"data\.batch_size is 0"):
        Listed(batch_size=0)
    with pytest.raises(TypeError, match="repeats"):
        Listed(repeats=2)
    assert Listed(cache_dir="~/x").cache_dir == Path.home() / "x"


def test_the_package_has_the_data_modules_by_name() -> None:
    assert datamodules.FilePairs is FilePairs
    assert issubclass(datamodules.RAVDESSDataModule, FilePairs)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        datamodules.Nothing  # noqa: B018
