"""What holds of every data set of files: nothing there, generated files, or real ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench.datamodules import (
    MNISTPairDataModule,
    NYUDepthV2DataModule,
    RAVDESSDataModule,
    SemanticKITTIDataModule,
)
from ntdh_bench.datasets import DatasetInfo, catalogue, state_of, write_marker
from ntdh_bench.errors import UserError

SETS = [info for info in catalogue() if info.folders]
of_files = pytest.mark.parametrize("info", SETS, ids=lambda info: info.name)
of_folders = pytest.mark.parametrize(
    ("info", "folder"), [(info, name) for info in SETS for name in info.folders]
)


@of_files
def test_nothing_there(info: DatasetInfo, tmp_path: Path) -> None:
    assert info.verify is not None
    assert state_of(info, tmp_path).state == "missing"
    for check in info.verify(tmp_path):
        assert check.state == "missing"
        assert any(
            word in check.note for word in (f"data prepare {info.name}", "fetch", "register")
        )


@of_files
def test_a_set_says_where_its_files_are(info: DatasetInfo) -> None:
    addresses = (*info.file_urls(), *info.page_urls)
    assert all(url.startswith(("https://", "http://")) for url in addresses)
    # Whoever wants AVLetters asks its authors.
    assert bool(addresses) == (info.name != "avletters")


@pytest.mark.parametrize(
    "make",
    [
        MNISTPairDataModule,
        RAVDESSDataModule,
        SemanticKITTIDataModule,
        NYUDepthV2DataModule,
        partial(NYUDepthV2DataModule, "scene_completion"),
    ],
)
def test_a_run_without_files_says_what_to_do(make: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"missing: .*{tmp_path}.*--data\.source simulated"
    ) as told:
        make(root=str(tmp_path), cache_dir=str(tmp_path / "cache")).setup()
    assert "\n" not in str(told.value)


@of_folders
def test_generated_files_are_not_prepared(info: DatasetInfo, folder: str, tmp_path: Path) -> None:
    write_marker(_holder(tmp_path / folder), {})
    assert info.prepare is not None
    with pytest.raises(UserError, match="holds simulated data: name another --root"):
        list(info.prepare(tmp_path, None))


@of_folders
def test_real_files_are_not_replaced(info: DatasetInfo, folder: str, tmp_path: Path) -> None:
    holder = _holder(tmp_path / folder)
    holder.mkdir()
    (holder / "mine").write_text("real")
    assert info.sample is not None
    with pytest.raises(UserError, match=rf"{holder} is not empty and has no SIMULATED\.json"):
        info.sample(tmp_path, 0)
    assert [path.name for path in tmp_path.rglob("*")] == [holder.name, "mine"]


def _holder(path: Path) -> Path:
    """Return the folder that a marker lies in: of a file, that of the file."""
    return path.parent if path.suffix else path
