"""What the code of the NTDH paper distils on MNIST: everything on the logits, most with plain KL.

The preset ``authors``, beside the defaults of each class, which are the ``published`` one. The sum
of the terms is weighted 0.5 against 0.5 of the cross entropy there. Two departures, where that code
cannot be meant as it is: its FitNet regressor (batch norm and ReLU) is made anew at every step and
never trained; here it is linear and trained. Its CRD has settings but no place in the published
training loop; here these settings are used, with weight 1 and without KL.
"""

from __future__ import annotations

from ntdh_bench.distillers.combined import Combined
from ntdh_bench.distillers.crd import CRD
from ntdh_bench.distillers.dkd import DKD
from ntdh_bench.distillers.fitnet import FitNet
from ntdh_bench.distillers.kd import KD
from ntdh_bench.distillers.relations import PKT, RKD, SP
from ntdh_bench.layers import LOGITS


class AuthorsKD(KD):
    """KL divergence of the logits at T = 1."""

    batched = KD.batched

    def __init__(self) -> None:
        super().__init__(temperature=1.0)


class AuthorsFitNet(Combined):
    """0.1 FitNet + KL; the regressor is trained here."""

    batched = Combined.batched

    def __init__(self) -> None:
        super().__init__([FitNet(weight=1.0, layer=LOGITS), AuthorsKD()], [0.1, 1.0])


class AuthorsCRD(CRD):
    """CRD with 32-dimensional embeddings and 10,000 negatives."""

    batched = CRD.batched

    def __init__(self) -> None:
        super().__init__(feat_dim=32, negatives=10_000, weight=1.0, layer=LOGITS)


class AuthorsRKD(RKD):
    """RKD with 25 x distance + 50 x angle."""

    batched = RKD.batched

    def __init__(self) -> None:
        super().__init__(layer=LOGITS)


class AuthorsPKT(Combined):
    """PKT + KL."""

    batched = Combined.batched

    def __init__(self) -> None:
        super().__init__([PKT(weight=1.0, layer=LOGITS), AuthorsKD()])


class AuthorsSP(Combined):
    """SP + KL."""

    batched = Combined.batched

    def __init__(self) -> None:
        super().__init__([SP(weight=1.0, layer=LOGITS), AuthorsKD()])


class AuthorsDKD(DKD):
    """DKD with alpha = beta = 0.5 at T = 1."""

    batched = DKD.batched

    def __init__(self) -> None:
        super().__init__(alpha=0.5, beta=0.5, temperature=1.0)
