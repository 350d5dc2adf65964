"""The data modules, each named once: what has short names in configs and is imported from here."""

from __future__ import annotations

from .files import FilePairs as FilePairs
from .mnist.datamodule import MNISTPairDataModule as MNISTPairDataModule
from .nyuv2.datamodule import NYUDepthV2DataModule as NYUDepthV2DataModule
from .paired import PairedDataModule as PairedDataModule
from .pairs.datamodule import PairedVectorsDataModule as PairedVectorsDataModule
from .ravdess.datamodule import RAVDESSDataModule as RAVDESSDataModule
from .semantickitti.datamodule import SemanticKITTIDataModule as SemanticKITTIDataModule
from .synthetic import SyntheticDataModule as SyntheticDataModule
