"""The plug-in entry point: importing it makes the data modules' short names known in configs."""

from __future__ import annotations

from .mnist.datamodule import MNISTPairDataModule
from .nyuv2.datamodule import NYUDepthV2DataModule
from .ravdess.datamodule import RAVDESSDataModule
from .semantickitti.datamodule import SemanticKITTIDataModule
from .synthetic import SyntheticDataModule

__all__ = [
    "MNISTPairDataModule",
    "NYUDepthV2DataModule",
    "RAVDESSDataModule",
    "SemanticKITTIDataModule",
    "SyntheticDataModule",
]
