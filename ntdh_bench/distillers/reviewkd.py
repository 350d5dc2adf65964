"""ReviewKD: what the student's stages see together, against each of the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from ntdh_bench.distillers.functional import reviewkd
from ntdh_bench.distillers.maps import on_one_grid
from ntdh_bench.distillers.taps import TapDistiller
from ntdh_bench.errors import UserError
from ntdh_bench.layers import map_of, share_of
from ntdh_bench.seeding import seeded
from ntdh_bench.stacks.layers import beside

_WIDEST = 512


class ReviewKD(TapDistiller):
    """Knowledge review (Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021).

    From the deepest stage on, the student's maps are fused with what was fused of the deeper ones,
    by attention, and compared with the teacher's of the same stage: of images only. The published
    20 epochs in which the weight grows from 0 are left out; the fusion is trained with the student.

    Args:
        weight: factor of the term; 5 in the code of the paper for wide residual networks.
        layers: ``layer``, ``student_layer`` and ``teacher_layer`` of a :class:`TapDistiller`: the
            stages, the shallowest first.
    """

    takes_vectors = False

    def __init__(self, weight: float = 5.0, **layers: str | list[str] | None) -> None:
        super().__init__(weight, **layers)
        self.fusions = nn.ModuleList()

    def check(
        self, student: Mapping[str, Size], teacher: Mapping[str, Size], aligned: bool
    ) -> None:
        """Refuse what are no maps of images, or not of the same places."""
        super().check(student, teacher, aligned)
        for layer, _ in self.taps:
            if len(student[layer]) != 3:
                raise UserError(
                    f"ReviewKD fuses maps of images, but layer {layer!r} gives features of "
                    f"{tuple(student[layer])}: name others, or choose AT, VID or FitNet"
                )

    def build(
        self, student: Mapping[str, int], teacher: Mapping[str, int], n_data: int, seed: int
    ) -> None:
        """Create the fusion of each stage, with weights derived from ``seed``, if there is none."""
        if len(self.fusions):
            return
        middle = min(_WIDEST, student[self.taps[-1][0]])
        with seeded(seed, "reviewkd"):
            for ours, theirs in self.taps:
                deepest = len(self.fusions) == len(self.taps) - 1
                self.fusions.append(_Fusion(student[ours], middle, teacher[theirs], deepest))

    def distill(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Return the weighted sum over the stages, the deepest first; 0 of a single position.

        Raises:
            UserError: the fusions were never built.
        """
        if not len(self.fusions):
            raise UserError("ReviewKD has no fusion: call build()")
        deeper: Tensor | None = None
        losses: list[Tensor] = []
        for tap, (ours, theirs) in reversed(list(enumerate(self.taps))):
            seen = student.get(map_of(ours), student[ours])
            if seen[:, 0].numel() < 2:  # batch normalisation has nothing to compare
                # Other processes may have more: all parts need a gradient in each, if it is zero.
                unused = torch.stack([parameter.sum() for parameter in self.parameters()])
                return (seen.sum() + unused.sum()) * 0
            fused, deeper = self.fusions[tap](seen, deeper)
            taught = teacher.get(map_of(theirs), teacher[theirs])
            losses.append(self.forward(fused, taught, student.get(share_of(ours)), tap))
        loss = sum(losses[1:], start=losses[0])
        return beside(self.weight, loss) * loss

    def forward(
        self, student: Tensor, teacher: Tensor, share: Tensor | None = None, tap: int = 0
    ) -> Tensor:
        """Return the unweighted loss of fused maps: see ``functional.reviewkd``."""
        return reviewkd(*on_one_grid(student, teacher, share))


class _Fusion(nn.Module):
    """Attention-based fusion of a stage with what is deeper (Fig. 3 of the paper).

    Args:
        before: channels of the student's stage.
        middle: of what is handed on.
        after: of the teacher's stage.
        deepest: whether there is nothing deeper.
    """

    def __init__(self, before: int, middle: int, after: int, deepest: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(
            nn.Conv2d(before, middle, 1, bias=False), nn.BatchNorm2d(middle)
        )
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.widen = nn.Sequential(
            nn.Conv2d(middle, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        )
        for convolution in (self.narrow[0], self.widen[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]

    def forward(self, stage: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what is compared with the teacher, and what shallower stages are fused with."""
        fused = self.narrow(stage.to(self.narrow[0].weight.dtype))  # type: ignore[arg-type]
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            share = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * share[:, :1] + deeper * share[:, 1:]
        return self.widen(fused), fused
