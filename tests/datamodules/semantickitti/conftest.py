from __future__ import annotations

from pathlib import Path

import pytest

from tests.datamodules.semantickitti.files import write_sequence, write_street


@pytest.fixture
def street(tmp_path: Path) -> Path:
    return write_street(tmp_path / "data")


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    return write_sequence(tmp_path / "00", 3, 0)
