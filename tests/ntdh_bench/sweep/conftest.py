from __future__ import annotations

from pathlib import Path

import pytest

from ntdh_bench.sweep.store import Store


@pytest.fixture(autouse=True)
def _stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and workers import ``stubs`` (workers get this process's path)."""
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Where stubs note what they do."""
    return tmp_path / "trace"
