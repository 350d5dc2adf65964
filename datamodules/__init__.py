"""Data modules: one paired data set each, all yielding :class:`ntdh_bench.batch.PairedBatch`.

Classes are imported on first use, so that ``catalog`` can be read without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mnist.datamodule import MNISTPairDataModule
    from .nyuv2.datamodule import NYUDepthV2DataModule
    from .paired import PairedDataModule
    from .ravdess.datamodule import RAVDESSDataModule
    from .semantickitti.datamodule import SemanticKITTIDataModule
    from .synthetic import SyntheticDataModule

__all__ = [
    "MNISTPairDataModule",
    "NYUDepthV2DataModule",
    "PairedDataModule",
    "RAVDESSDataModule",
    "SemanticKITTIDataModule",
    "SyntheticDataModule",
]

_HOMES = {
    "MNISTPairDataModule": ".mnist.datamodule",
    "NYUDepthV2DataModule": ".nyuv2.datamodule",
    "PairedDataModule": ".paired",
    "RAVDESSDataModule": ".ravdess.datamodule",
    "SemanticKITTIDataModule": ".semantickitti.datamodule",
    "SyntheticDataModule": ".synthetic",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
