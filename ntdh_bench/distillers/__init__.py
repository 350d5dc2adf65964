"""Distillation objectives: one module per method, pure losses in ``functional``."""

from __future__ import annotations

from ntdh_bench.distillers.attention import AT
from ntdh_bench.distillers.base import Distiller
from ntdh_bench.distillers.combined import Combined
from ntdh_bench.distillers.crd import CRD
from ntdh_bench.distillers.dist import DIST
from ntdh_bench.distillers.dkd import DKD, WeightedKL
from ntdh_bench.distillers.fitnet import FitNet
from ntdh_bench.distillers.kd import KD
from ntdh_bench.distillers.mlkd import MLKD
from ntdh_bench.distillers.nkd import NKD
from ntdh_bench.distillers.ofa import OFA
from ntdh_bench.distillers.relations import CC, PKT, RKD, SP
from ntdh_bench.distillers.reviewkd import ReviewKD
from ntdh_bench.distillers.simkd import SimKD
from ntdh_bench.distillers.skd import SKD
from ntdh_bench.distillers.srd import SRD
from ntdh_bench.distillers.vid import VID
from ntdh_bench.distillers.wttm import WTTM

__all__ = [
    "AT",
    "CC",
    "CRD",
    "DIST",
    "DKD",
    "KD",
    "MLKD",
    "NKD",
    "OFA",
    "PKT",
    "RKD",
    "SKD",
    "SP",
    "SRD",
    "VID",
    "WTTM",
    "Combined",
    "Distiller",
    "FitNet",
    "ReviewKD",
    "SimKD",
    "WeightedKL",
]
