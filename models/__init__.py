"""Networks and the LightningModules that train, distil and test them."""

from __future__ import annotations

from .aicnet import AICNet
from .base import NetworkCallable
from .c2kd import C2KDModule
from .camera import CameraNet
from .cnn import AudioCNN, ImageCNN
from .ddrnet import DDRNet
from .distillation import DistillationModule
from .encoder_decoder import EncoderDecoder
from .joint import JointModule
from .mlp import MLPClassifier
from .mst_distill import MSTDistillModule
from .multimodal import ConcatFusion, Fusion, GatedFusion, LateFusion
from .mutual import MutualModule
from .optimizers import OptimizerPair, WarmupCosine
from .pmf import PMFNet
from .pmf_module import PMFModule
from .salsanext import SalsaNext
from .series import SeriesCNN
from .teacher import TeacherModule
from .twodpass import TwoDPASSNet
from .twodpass_module import TwoDPASSModule

__all__ = [
    "AICNet",
    "AudioCNN",
    "C2KDModule",
    "CameraNet",
    "ConcatFusion",
    "DDRNet",
    "DistillationModule",
    "EncoderDecoder",
    "Fusion",
    "GatedFusion",
    "ImageCNN",
    "JointModule",
    "LateFusion",
    "MLPClassifier",
    "MSTDistillModule",
    "MutualModule",
    "NetworkCallable",
    "OptimizerPair",
    "PMFModule",
    "PMFNet",
    "SalsaNext",
    "SeriesCNN",
    "TeacherModule",
    "TwoDPASSModule",
    "TwoDPASSNet",
    "WarmupCosine",
]
