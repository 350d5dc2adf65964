from __future__ import annotations

from pathlib import Path

import pytest

from tests.datamodules.nyuv2.files import write_mat, write_prepared


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The folder ``nyuv2/prepared`` below a data root."""
    return write_prepared(tmp_path / "data")


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    """A folder with the three published files."""
    return write_mat(tmp_path / "mat")
