"""Feature masks (Algorithm 1) and sample masks (Algorithm 2)."""

from __future__ import annotations

from ntdh_bench.masks.base import Mask, Removes
from ntdh_bench.masks.feature_mask import FeatureMask
from ntdh_bench.masks.saliency import FeatureSaliency, Saliency
from ntdh_bench.masks.saliency_figures import saliency_report
from ntdh_bench.masks.sample_mask import SampleMask

__all__ = [
    "FeatureMask",
    "FeatureSaliency",
    "Mask",
    "Removes",
    "Saliency",
    "SampleMask",
    "saliency_report",
]
