"""Networks and the LightningModules that train, distil and test them."""

from __future__ import annotations

from .base import NetworkCallable
from .distillation import DistillationModule
from .joint import JointModule
from .mlp import MLPClassifier
from .teacher import TeacherModule

__all__ = ["DistillationModule", "JointModule", "MLPClassifier", "NetworkCallable", "TeacherModule"]
