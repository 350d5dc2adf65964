r"""Interventions on a frozen teacher's output: what moves one divergence and leaves the other.

They lie between the teacher and the distiller, and know the target, as Algorithm 2 does::

    ntdh-bench fit --config wiki_kd --model.intervention ShuffleNontarget \
        --model.intervention.share 0.5
"""

from __future__ import annotations

from .base import Intervention, Rows, SharedIntervention, Source, SplitRows
from .nontarget import AlignNontarget, ClassNontarget, ShuffleNontarget, UniformNontarget
from .target import ScaleTarget, ShiftTarget, ShuffleTarget

__all__ = [
    "AlignNontarget",
    "ClassNontarget",
    "Intervention",
    "Rows",
    "ScaleTarget",
    "SharedIntervention",
    "ShiftTarget",
    "ShuffleNontarget",
    "ShuffleTarget",
    "Source",
    "SplitRows",
    "UniformNontarget",
]
