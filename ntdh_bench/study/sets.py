"""From settings to data sets, and from these to a mean: the same for claims and rival theories."""

from __future__ import annotations

from collections.abc import Iterable

from ntdh_bench.report.effects import Effect, Pooled, average, pool
from ntdh_bench.study.results import Part, SetEffect, SettingEffect, Sign


def part(name: str, settings: Iterable[SettingEffect], sign: Sign) -> Part:
    """Return a comparison over data sets.

    Args:
        name: of it, in words.
        settings: with what it is in each.
        sign: where the claim puts it.
    """
    sets = of_sets(settings, sign)
    counted = [found for found in sets if found.counts]
    return Part(name, sets, pooled(counted), pooled(found for found in counted if found.within))


def of_sets(settings: Iterable[SettingEffect], sign: Sign) -> tuple[SetEffect, ...]:
    """Return the effect in each data set, in order of name.

    Directions and protocols of a set share seeds and networks: its variance is that of effects that
    depend on each other wholly.
    """
    by_set: dict[str, list[SettingEffect]] = {}
    for setting in settings:
        by_set.setdefault(setting.dataset, []).append(setting)
    return tuple(_of_set(name, by_set[name], sign) for name in sorted(by_set))


def pooled(sets: Iterable[SetEffect]) -> Pooled | None:
    """Return the mean over data sets with an effect; None with fewer than two."""
    return pool([found.effect for found in sets if found.effect])


def _of_set(name: str, settings: list[SettingEffect], sign: Sign) -> SetEffect:
    counted = [setting for setting in settings if setting.counts]
    effects = [setting.effect for setting in counted or settings if setting.effect]
    effect = average(effects) if effects else None
    within = bool(counted) and all(setting.within for setting in counted)
    return SetEffect(name, effect, _p(effect, sign), bool(counted), within, tuple(settings))


def _p(effect: Effect | None, sign: Sign) -> float | None:
    if effect is None:
        return None
    return effect.p_greater if sign > 0 else effect.p_less
