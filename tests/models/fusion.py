"""Tiny two-branch networks and a tiny street, for the tests of PMF's and 2DPASS's training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ntdh_bench.datamodules import SemanticKITTIDataModule
from tests.datamodules.semantickitti.files import write_street

CLASSES = 20


class TinyPMF(nn.Module):
    """Pixel-wise branches; the lidar branch sees the camera image as well."""

    def __init__(self) -> None:
        super().__init__()
        self.camera = nn.Conv2d(3, CLASSES, 1)
        self.lidar = nn.Conv2d(8, CLASSES, 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        both = torch.cat([inputs["camera"], inputs["lidar"]], dim=1)
        return {"camera": self.camera(inputs["camera"]), "lidar": self.lidar(both)}


class TinyTwoDPASS(nn.Module):
    """Point-wise heads; the image's colour at each point is all that the fused ones add."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.ModuleList(nn.Linear(4, CLASSES) for _ in range(5))
        self.fused = nn.ModuleList(nn.Linear(7, CLASSES) for _ in range(5))

    def forward(self, points: Mapping[str, Tensor], image: Tensor | None = None) -> Any:
        position = points["points"] / 20
        *single, logits = (head(position) for head in self.points)
        if image is None:
            return {"logits": logits}
        colours = image.movedim(1, -1).flatten(0, 2)[points["pixel"]]
        *fused, camera = (head(torch.cat([position, colours], dim=1)) for head in self.fused)
        stacked = {"fused": torch.stack(fused), "single": torch.stack(single)}
        return {"logits": logits, "camera": camera, **stacked}


def street_data(folder: Path, **options: Any) -> SemanticKITTIDataModule:
    """Four training frames of 32 x 96 pixels; 3 test frames, so that two processes pad."""
    if not (folder / "data").exists():
        write_street(folder / "data")
    settings: dict[str, Any] = {
        "root": str(folder / "data"), "cache_dir": str(folder / "cache"), "train_sequences": [0],
        "crop": (32, 96), "batch_size": 2,
    }  # fmt: skip
    return SemanticKITTIDataModule(**{**settings, **options})
