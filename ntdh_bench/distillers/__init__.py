"""Distillation objectives: one module per method, pure losses in ``functional``."""

from __future__ import annotations

from ntdh_bench.distillers.attention import AT
from ntdh_bench.distillers.base import Distiller
from ntdh_bench.distillers.combined import Combined
from ntdh_bench.distillers.crd import CRD
from ntdh_bench.distillers.dkd import DKD, WeightedKL
from ntdh_bench.distillers.fitnet import FitNet
from ntdh_bench.distillers.kd import KD
from ntdh_bench.distillers.relations import PKT, RKD, SP
from ntdh_bench.distillers.vid import VID

__all__ = [
    "AT",
    "CRD",
    "DKD",
    "KD",
    "PKT",
    "RKD",
    "SP",
    "VID",
    "Combined",
    "Distiller",
    "FitNet",
    "WeightedKL",
]
