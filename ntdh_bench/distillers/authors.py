"""What the code of the NTDH paper distils on MNIST: everything on the logits, most with plain KL.

Zero-argument functions, usable as ``class_path`` in a config. The sum of their terms is weighted
0.5 against 0.5 of the cross-entropy there. Two departures, where that code cannot be meant as it
is: its FitNet regressor (batch norm and ReLU) is made anew at every step and never trained; here it
is linear and trained. Its CRD has settings but no place in the published training loop; here these
settings are used, with weight 1 and without KL.
"""

from __future__ import annotations

from ntdh_bench.distillers.combined import Combined
from ntdh_bench.distillers.crd import CRD
from ntdh_bench.distillers.dkd import DKD
from ntdh_bench.distillers.fitnet import FitNet
from ntdh_bench.distillers.kd import KD
from ntdh_bench.distillers.relations import PKT, RKD, SP
from ntdh_bench.layers import LOGITS


def kd() -> KD:
    """KL divergence of the logits at T = 1."""
    return KD(temperature=1.0)


def fitnet() -> Combined:
    """0.1 FitNet + KL; the regressor is trained here."""
    return Combined([FitNet(weight=1.0, layer=LOGITS), kd()], [0.1, 1.0])


def crd() -> CRD:
    """CRD with 32-dimensional embeddings and 10,000 negatives."""
    return CRD(feat_dim=32, negatives=10000, weight=1.0, layer=LOGITS)


def rkd() -> RKD:
    """RKD with 25 x distance + 50 x angle."""
    return RKD(layer=LOGITS)


def pkt() -> Combined:
    """PKT + KL."""
    return Combined([PKT(weight=1.0, layer=LOGITS), kd()])


def sp() -> Combined:
    """SP + KL."""
    return Combined([SP(weight=1.0, layer=LOGITS), kd()])


def dkd() -> DKD:
    """DKD with alpha = beta = 0.5 at T = 1."""
    return DKD(alpha=0.5, beta=0.5, temperature=1.0)
