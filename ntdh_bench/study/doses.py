"""How a setting answers to interventions on the teacher's output, dose by dose."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ntdh_bench.report.effects import dose_slope, seed_mean, slopes
from ntdh_bench.report.gates import Gate, weakest
from ntdh_bench.report.statistics import Array
from ntdh_bench.study.results import SettingEffect, Sign
from ntdh_bench.study.settings import (
    GAIN,
    NCJSD,
    TCJSD,
    TWO_WAY,
    Block,
    EffectOf,
    Setting,
    block,
    moved,
)

EXPERIMENT = "interventions"
#: The same at temperature 1, where mixed non-target distributions leave p_target as it is taught.
AT_ONE = "interventions_t1"
SHUFFLE, ALIGN, UNIFORM, OF_CLASS = (
    "ShuffleNontarget", "AlignNontarget", "UniformNontarget", "ClassNontarget",
)  # fmt: skip
#: They raise the target divergence, and leave the other and the teacher's accuracy. ``ShiftTarget``
#: is none of them: it makes a weak teacher right.
TARGET = ("ShuffleTarget", "ScaleTarget")
INTERVENTIONS = (SHUFFLE, ALIGN, UNIFORM, OF_CLASS, *TARGET, "ShiftTarget")
#: In nats: what an intervention leaves exactly as it was moves by less.
STILL = 1e-4
#: The teacher as it is, and two doses, of which a slope is told.
MIN_DOSES = 3
_MEASURES = GAIN, NCJSD, TCJSD


@dataclass(frozen=True)
class Response:
    """Doses of one intervention, from 0, the teacher as it is, upwards; and what came of them.

    Attributes:
        doses: ``(doses,)``.
        gain: ``(doses, seeds)``, in points.
        ncjsd: likewise, before distillation, in nats.
        tcjsd: likewise.
        two_way: TCJSD of two-way distributions; NaN where a record has none.
        teacher: the gate of the teacher over these doses.
    """

    doses: Array
    gain: Array
    ncjsd: Array
    tcjsd: Array
    two_way: Array
    teacher: Gate

    def change(self, divergence: Array) -> Array:
        """Return how far a divergence moved from dose 0 to the largest dose, by seed."""
        change: Array = divergence[-1] - divergence[0]
        return change

    def at(self, doses: Collection[float]) -> Response:
        """Return the response at some of the doses."""
        kept = np.isin(self.doses, list(doses))
        return replace(
            self,
            doses=self.doses[kept],
            gain=self.gain[kept],
            ncjsd=self.ncjsd[kept],
            tcjsd=self.tcjsd[kept],
            two_way=self.two_way[kept],
        )

    def per_nat(self, divergence: Array) -> Array:
        """Return the slope of the gain in a divergence that the doses move, by seed.

        The divergence of a dose is its mean over seeds, so that its noise does not thin the slope.
        """
        return slopes(self.gain, divergence.mean(axis=1))


def dosed(setting: Setting, names: Collection[str]) -> Block:
    """Return the runs of KD under interventions and from the teacher as it is, by name and dose."""
    rows = [
        row
        for row in setting.distilled
        if row["method"] == "KD" and not row["mask"] and row["intervention"] in (None, *names)
    ]
    return block(rows, lambda row: (row["intervention"], row["dose"] or 0.0), _MEASURES)


def responses(setting: Setting, names: Collection[str]) -> dict[str, Response]:
    """Return the responses to those of the interventions that were run, over the same seeds."""
    found = dosed(setting, names)
    run = {name for name, _ in found.runs}
    return {name: _response(setting, found, name) for name in names if {None, name} <= run}


def _response(setting: Setting, found: Block, name: str) -> Response:
    """Return the response to one intervention, and the gate of the teacher.

    Target interventions: doses that move the teacher's accuracy by more than the gate's margin are
    left out, unless too few are left; then none is, and the gate is not passed. Others leave the
    teacher's target probability as it is, so TCJSD must not have moved. The accuracy may, as the
    largest other probability changes, without the teacher knowing more of the target: it is shown.
    """
    own = found.only(cell for cell in found.runs if cell[0] in (None, name))
    sound = own.sound(setting) if name in TARGET else list(own.runs)
    kept = own.only(sound) if len(sound) >= MIN_DOSES else own
    doses = np.array([dose for _, dose in kept.runs])
    gain, ncjsd, tcjsd, two_way = map(kept.values, (*_MEASURES, TWO_WAY))
    accuracy = setting.teacher_gate(kept.rows)
    gate = accuracy if name in TARGET else _still(tcjsd, accuracy.shown)
    return Response(doses, gain, ncjsd, tcjsd, two_way, gate)


def _still(tcjsd: Array, accuracy: str) -> Gate:
    """Return the gate of a teacher whose knowledge of the target is not to change."""
    shown = f"TCJSD moved {_drift(tcjsd):.0e} nats, accuracy {accuracy}"
    return Gate("teacher", _drift(tcjsd) < STILL, shown)


def _drift(divergence: Array) -> float:
    """Return how far a divergence strays from that of dose 0, mean over seeds, in nats."""
    return float(np.abs((divergence - divergence[0]).mean(axis=1)).max())


def _target_moved(found: Response) -> Gate:
    """Return the gate of the manipulation of a target intervention: TCJSD up, NCJSD still."""
    if _drift(found.ncjsd) >= STILL:
        return Gate("manipulation", False, f"NCJSD moved {_drift(found.ncjsd):.0e} nats")
    return moved(found.change(found.tcjsd))


# -- what claims ask -----------------------------------------------------------------------------


def slope(name: str, sign: Sign | None = None) -> EffectOf:
    """Return what measures the slope of the gain in the dose, a share (P1, P3).

    Args:
        name: of the intervention.
        sign: which way it is to move NCJSD; None: either, or not at all, and the slope is that from
            no dose, 0, to the largest, 1, whatever a dose is.
    """

    def effect(setting: Setting) -> SettingEffect | None:
        found = responses(setting, [name]).get(name)
        if found is None:
            return None
        ncjsd, tcjsd, two_way = map(found.change, (found.ncjsd, found.tcjsd, found.two_way))
        own = (found.teacher,) if sign is None else (moved(sign * ncjsd), found.teacher)
        doses = found.doses if sign else found.doses / found.doses.max()
        return setting.effect(
            dose_slope(found.gain, doses.tolist()),
            own,
            {
                "NCJSD moved": float(ncjsd.mean()),
                "TCJSD moved": float(tcjsd.mean()),
                "two-way TCJSD moved": float(two_way.mean()),
            },
        )

    return effect


def less_under_target(setting: Setting) -> SettingEffect | None:
    """Return how much more the gain changes in NCJSD than in TCJSD, each moved alone (P2).

    Both by as many nats: as many as the intervention moves that moves its divergence less, so that
    nothing is extrapolated, and a divergence that hardly moves tells little instead of anything.
    Target interventions that do not move TCJSD, or that change the teacher's accuracy, are left
    out; without any other, none is, and the gate is not passed.
    """
    found = responses(setting, [SHUFFLE, *TARGET])
    own, target = found.pop(SHUFFLE, None), list(found.values())
    if own is None or not target:
        return None
    target = [r for r in target if r.teacher.passed and _target_moved(r).passed] or target
    change, steep = own.change(own.ncjsd), own.per_nat(own.ncjsd)
    changes, others = zip(*((r.change(r.tcjsd), r.per_nat(r.tcjsd)) for r in target), strict=True)
    shared = [min(abs(change.mean()), abs(other.mean())) for other in changes]
    more = [nats * (steep - other) for nats, other in zip(shared, others, strict=True)]
    return setting.effect(
        seed_mean(np.mean(more, axis=0), len(own.doses)),
        (
            weakest((moved(change), *map(_target_moved, target))),
            weakest(r.teacher for r in (own, *target)),
        ),
        {
            "NCJSD moved": float(change.mean()),
            "TCJSD moved": float(np.mean(changes)),
            "two-way TCJSD moved": float(np.mean([r.change(r.two_way) for r in target])),
            "shared": float(np.mean(shared)),
            "points per nat of NCJSD": float(steep.mean()),
            "points per nat of TCJSD": float(np.mean(others)),
        },
    )


def more_than_uniform(setting: Setting) -> SettingEffect | None:
    """Return how much steeper the gain is under alignment than under the uniform one (P3).

    Both over the same doses.
    """
    found = responses(setting, [ALIGN, UNIFORM])
    if len(found) < 2:
        return None
    shared = set(found[ALIGN].doses) & set(found[UNIFORM].doses)
    align, uniform = (found[name].at(shared) for name in (ALIGN, UNIFORM))
    change = align.change(align.ncjsd)
    aligned, other = slopes(align.gain, align.doses), slopes(uniform.gain, uniform.doses)
    return setting.effect(
        seed_mean(aligned - other, len(align.doses)),
        (moved(-change), weakest((align.teacher, uniform.teacher))),
        {
            "NCJSD moved": float(change.mean()),
            "NCJSD moved by the uniform one": float(uniform.change(uniform.ncjsd).mean()),
            "slope aligned": float(aligned.mean()),
            "slope uniform": float(other.mean()),
        },
    )
