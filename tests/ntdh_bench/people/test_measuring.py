from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from ntdh_bench.people.measuring import dealt_anew, divergences, measure, to_yaml
from ntdh_bench.people.plugin import PATH
from ntdh_bench.people.votes import read_votes
from tests.ntdh_bench.people.files import counts, write_votes


def _ncjsd(a: list[float], b: list[float], target: int) -> float:
    """Eq. 6 from its definition."""
    rest = [[v for k, v in enumerate(p) if k != target] for p in (a, b)]
    p, q = ([v / sum(values) for v in values] for values in rest)
    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return sum(
        v * math.log(v / m) / 2 for side in (p, q) for v, m in zip(side, middle, strict=True)
    )


def test_divergences_are_those_of_smoothed_shares() -> None:
    a, b, _ = counts()
    target = np.array([0, 4, 5, 3])
    _, found = divergences(a, b, target)
    expected = [
        _ncjsd((x + 0.5).tolist(), (y + 0.5).tolist(), k)
        for x, y, k in zip(a, b, target, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_votes_are_dealt_like_cards() -> None:
    """Totals of each side and of each emotion stay, and each group gets its share on average."""
    a, b, _ = counts()
    random = np.random.default_rng(0)
    total = np.zeros(a.shape)
    for _ in range(2000):
        x, y = dealt_anew(a, b, random)
        np.testing.assert_array_equal(x + y, a + b)
        np.testing.assert_array_equal(x.sum(1), a.sum(1))
        assert min(x.min(), y.min()) >= 0
        total += x
    share = a.sum(1, keepdims=True) / (a + b).sum(1, keepdims=True)
    np.testing.assert_allclose(total / 2000, share * (a + b), atol=0.15)


def test_measured_numbers(tmp_path: Path) -> None:
    votes = read_votes(write_votes(tmp_path))
    pairs = measure(votes, draws=3)
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("voice", "face"), ("voice", "both"), ("face", "both"),
    ]  # fmt: skip
    voice = votes.counts["voice"]
    share = voice[np.arange(4), votes.target] / voice.sum(1)
    by_actor = [share[:2].mean(), share[2], share[3]]
    mean, low, high, actors = pairs[0]["first_right"]
    assert mean == pytest.approx(np.mean(by_actor), abs=1e-6)
    assert low < mean < high
    assert actors == 3
    assert yaml.safe_load(to_yaml(votes, pairs))["pairs"] == pairs
    assert measure(votes, draws=3) == pairs


def test_people_of_one_mind_diverge_by_chance_alone() -> None:
    """Two groups whose votes are drawn from one distribution: NCJSD is what dealing anew gives."""
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(6), 1500)
    a, b = random.multinomial(9, shares), random.multinomial(10, shares)
    target = random.integers(0, 6, 1500)
    found = divergences(a, b, target)[1].mean()
    chance = np.mean([divergences(*dealt_anew(a, b, random), target)[1].mean() for _ in range(5)])
    assert found == pytest.approx(chance, rel=0.05)
    assert found > 0.02


def test_the_report_has_what_the_published_votes_give(data_root: Path) -> None:
    votes = read_votes(data_root / "cremad_votes" / "tabulatedVotes.csv")
    pairs = measure(votes)
    assert to_yaml(votes, pairs) == PATH.read_text()
    voice_face = divergences(votes.counts["voice"], votes.counts["face"], votes.target)[1]
    assert round(float(voice_face.mean()), 3) == 0.095
