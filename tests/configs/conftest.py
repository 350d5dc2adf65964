from __future__ import annotations

import pytest

from ntdh_bench.models import cnn


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the networks of RAVDESS, which no setting makes smaller, have a 16th of their weights."""
    monkeypatch.setattr(cnn, "_POOLED", (2, 3))
