"""How far the votes of people of two modalities are apart, measured as networks are."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from ntdh_bench.divergence import Comparison
from ntdh_bench.people.votes import MODALITIES, Votes
from ntdh_bench.report.statistics import mean_ci

#: Added to each count, so that no emotion has probability 0.
ADDED = 0.5
#: Others, which show how much depends on it.
OTHERS = (0.1, 1.0)
_DRAWS = 20

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def measure(votes: Votes, draws: int = _DRAWS, seed: int = 0) -> list[dict[str, Any]]:
    """Return a mapping of plain values for each two modalities.

    ``first``, ``second``: their names. ``first_right``, ``second_right``: share of votes for the
    emotion that was played. ``tcjsd``, ``ncjsd``: Eq. 5 and 6, in nats. ``ncjsd_<a>``: with another
    number added to each count. ``chance``: the NCJSD that two groups of so few people have by
    chance: all votes on a clip are dealt anew to both. Each is a list of mean, lower and upper end
    of the 95 % interval over actors, and their number.

    Args:
        votes: of people.
        draws: how often votes are dealt anew.
        seed: of that.
    """
    random = np.random.default_rng(seed)
    return [_pair(votes, *names, draws, random) for names in combinations(MODALITIES, 2)]


def to_yaml(votes: Votes, pairs: list[dict[str, Any]]) -> str:
    """Return what :func:`measure` found as the YAML file that the report reads."""
    lines = [
        "# Made by `ntdh-bench data votes tabulatedVotes.csv --out FILE`. Contains information",
        "# of CREMA-D (Cao et al. 2014), made available under the Open Database License.",
        "# Numbers are mean, both ends of the 95 % interval over actors, and the number of actors.",
    ]
    content = {"clips": len(votes.clips), "added": ADDED, "pairs": pairs}
    return "\n".join([*lines, yaml.safe_dump(content, sort_keys=False, default_flow_style=None)])


def _pair(
    votes: Votes, first: str, second: str, draws: int, random: np.random.Generator
) -> dict[str, Any]:
    a, b = votes.counts[first], votes.counts[second]
    tcjsd, ncjsd = divergences(a, b, votes.target)
    dealt = [divergences(*dealt_anew(a, b, random), votes.target)[1] for _ in range(draws)]
    values = {
        "first_right": _right(a, votes.target),
        "second_right": _right(b, votes.target),
        "tcjsd": tcjsd,
        "ncjsd": ncjsd,
        **{f"ncjsd_{added:g}": divergences(a, b, votes.target, added)[1] for added in OTHERS},
        "chance": np.mean(dealt, axis=0),
    }
    return {
        "first": first,
        "second": second,
        **{name: _over_actors(value, votes.actor) for name, value in values.items()},
    }


def divergences(
    a: Counts, b: Counts, target: Counts, added: float = ADDED
) -> tuple[Floats, Floats]:
    """Return TCJSD (Eq. 5) and NCJSD (Eq. 6) between counts (N, C), each float64 (N,), nats."""
    logits_a, logits_b = (torch.from_numpy(np.log(counts + added)) for counts in (a, b))
    compared = Comparison(logits_a, logits_b, torch.from_numpy(target))
    return compared.tcjsd().numpy(), compared.ncjsd().numpy()


def dealt_anew(a: Counts, b: Counts, random: np.random.Generator) -> tuple[Counts, Counts]:
    """Return the votes of each row (N, C) dealt to two groups at random, as many to each as had."""
    pooled = a + b
    dealt = np.empty_like(a)
    left, others = a.sum(1), pooled.sum(1)
    for column in range(a.shape[1]):
        others = others - pooled[:, column]
        dealt[:, column] = random.hypergeometric(pooled[:, column], others, left)
        left = left - dealt[:, column]
    return dealt, pooled - dealt


def _right(counts: Counts, target: Counts) -> Floats:
    return np.asarray(counts[np.arange(len(target)), target] / np.maximum(counts.sum(1), 1))


def _over_actors(values: Floats, actor: Counts) -> list[float | int | None]:
    found = mean_ci(float(values[actor == name].mean()) for name in np.unique(actor))
    assert found is not None  # there are clips
    ends = [None if end is None else round(end, 6) for end in (found.low, found.high)]
    return [round(found.mean, 6), *ends, found.n]
