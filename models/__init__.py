"""Networks and the LightningModules that train, distil and test them."""

from __future__ import annotations

from .base import NetworkCallable
from .cnn import AudioCNN, ImageCNN
from .distillation import DistillationModule
from .joint import JointModule
from .mlp import MLPClassifier
from .teacher import TeacherModule

__all__ = [
    "AudioCNN",
    "DistillationModule",
    "ImageCNN",
    "JointModule",
    "MLPClassifier",
    "NetworkCallable",
    "TeacherModule",
]
