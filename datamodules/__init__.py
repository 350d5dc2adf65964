"""Data modules: one paired data set each, all yielding :class:`ntdh_bench.batch.PairedBatch`.

They are imported on first use, so that ``catalog`` can be read without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plugin import *  # noqa: F403


def __getattr__(name: str) -> Any:
    found = None if name.startswith("_") else vars(import_module(".plugin", __name__)).get(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
