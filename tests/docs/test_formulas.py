"""The formulas of docs/methods, written out as printed there, are the losses of the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from ntdh_bench.distillers import functional
from ntdh_bench.distillers.mutual import mutual_kl, selected_nckl
from ntdh_bench.distillers.routing import imbalance, routed_kl
from ntdh_bench.divergence import ncjsd, tcjsd
from ntdh_bench.rank_correlation import kendall_tau

N, C, D, SIDE = 7, 5, 6, 8  # rows, classes, features, of square maps

draw = partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ZS, ZT, FS, FT = 3 * draw(N, C), 3 * draw(N, C), draw(N, D), draw(N, D)
MAP_S, MAP_T = draw(N, D, SIDE, SIDE), draw(N, D, SIDE, SIDE)
Y = torch.arange(N) % C
ROWS = torch.arange(N)


def p(z: Tensor, t: float = 1.0) -> Tensor:
    return (z / t).softmax(dim=1)


def hat(z: Tensor, t: float = 1.0) -> Tensor:
    """Probabilities of the classes other than the target, renormalised: (N, C - 1)."""
    rest = ~one_hot(Y, C).bool()
    return p(z, t)[rest].view(N, C - 1) / (1 - p(z, t)[ROWS, Y])[:, None]


def kl(a: Tensor, b: Tensor) -> Tensor:
    return (a * (a / b).log()).sum(dim=1)


def two_way(z: Tensor, t: float = 1.0) -> Tensor:
    target = p(z, t)[ROWS, Y]
    return torch.stack([target, 1 - target], dim=1)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def cosines(x: Tensor) -> Tensor:
    return unit(x) @ unit(x).T


def squares(x: Tensor) -> Tensor:
    return x.square().sum()


def scores(z: Tensor) -> Tensor:
    return (z - z.mean(dim=1, keepdim=True)) / (z.std(dim=1, keepdim=True) + 1e-7)


def kd(t: float) -> Tensor:
    return t**2 * kl(p(ZT, t), p(ZS, t)).mean()


def dkd(alpha: float, beta: float, t: float) -> Tensor:
    parts = alpha * kl(two_way(ZT, t), two_way(ZS, t)) + beta * kl(hat(ZT, t), hat(ZS, t))
    return t**2 * parts.mean()


def kd_split(t: float) -> Tensor:
    """KD with what DKD replaces by beta."""
    others = (1 - p(ZT, t)[ROWS, Y]) * kl(hat(ZT, t), hat(ZS, t))
    return t**2 * (kl(two_way(ZT, t), two_way(ZS, t)) + others).mean()


def nkd(gamma: float, t: float) -> Tensor:
    target = p(ZT)[ROWS, Y] * p(ZS)[ROWS, Y].log()
    return -(target + gamma * t**2 * (hat(ZT, t) * hat(ZS, t).log()).sum(dim=1)).mean()


def dist(beta: float, gamma: float, t: float) -> Tensor:
    def rho(a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(a, b, strict=True)
        return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean()

    rows, classes = rho(p(ZT, t), p(ZS, t)), rho(p(ZT, t).T, p(ZS, t).T)
    return t**2 * (beta * (1 - rows) + gamma * (1 - classes))


def mlkd(t: float) -> Tensor:
    a, b = p(ZT, t), p(ZS, t)
    return kd(t) + squares(a.T @ a - b.T @ b) / C + squares(a @ a.T - b @ b.T) / N


def skd(t: float, ridge: float) -> Tensor:
    d = (cosines(ZS) - cosines(ZT)) / C
    inverse = torch.linalg.inv(torch.cov(d.T) + ridge * torch.eye(N))
    return kd(t) + torch.stack([(row @ inverse @ row).sqrt() for row in d]).mean()


def ofa(eps: float, t: float) -> Tensor:
    target = one_hot(Y, C)
    return -(((p(ZT, t) + target) ** eps - target) * p(ZS, t).log()).sum(dim=1).mean()


def attention(x: Tensor) -> Tensor:
    return unit(x.square().mean(dim=1).flatten(1))


def reviewed() -> Tensor:
    levels = [MAP_S - MAP_T]
    levels += [adaptive_avg_pool2d(MAP_S, k) - adaptive_avg_pool2d(MAP_T, k) for k in (4, 2, 1)]
    weights = [2.0**-level for level in range(4)]
    parts = [w * gap.square().mean() for w, gap in zip(weights, levels, strict=True)]
    return torch.stack(parts).sum() / sum(weights)


def srd(exponent: float) -> Tensor:
    ours, theirs = ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-4).sqrt() for x in (FS, FT))
    return ((ours - theirs).abs() ** exponent).sum().log()


def rkd(of_distances: float, of_angles: float) -> Tensor:
    def smooth(x: Tensor) -> Tensor:
        return torch.where(x.abs() < 1, x.square() / 2, x.abs() - 0.5)

    def distances(x: Tensor) -> Tensor:
        between = (x[:, None] - x).norm(dim=2)
        return between / between[between > 0].mean()

    def angles(x: Tensor) -> Tensor:
        edges = x - x[:, None]
        length = edges.norm(dim=2, keepdim=True)
        edges = torch.where(length > 0, edges / length, 0)
        return edges @ edges.mT

    near = smooth(distances(FS) - distances(FT)).sum() / N**2
    return of_distances * near + of_angles * smooth(angles(FS) - angles(FT)).sum() / N**3


def pkt() -> Tensor:
    a, b = (x / x.sum(dim=1, keepdim=True) for x in ((1 + cosines(f)) / 2 for f in (FT, FS)))
    return (a * ((a + 1e-7) / (b + 1e-7)).log()).sum() / N**2


def cc(gamma: float, order: int) -> Tensor:
    def kernel(x: Tensor) -> Tensor:
        terms = [(2 * gamma * cosines(x)) ** m / math.factorial(m) for m in range(order + 1)]
        return math.exp(-2 * gamma) * torch.stack(terms).sum(dim=0)

    return squares(kernel(FS) - kernel(FT)) / N**2


def crd_pair() -> tuple[Tensor, Tensor]:
    """CRD of 9 negatives from banks of 20 samples, and its formula."""
    of_student, of_teacher, t = unit(draw(20, D)), unit(draw(20, D)), 0.07
    drawn, log_z = torch.arange(N * 10).view(N, 10) % 20, torch.tensor([0.3, 0.7])
    c = 9 / 20

    def side(u: Tensor, bank: Tensor, z: Tensor) -> Tensor:
        h = (torch.einsum("nd,nkd->nk", u, bank[drawn]) / t - z).exp()
        negatives = (c / (h[:, 1:] + c + 1e-7)).log().sum(dim=1)
        return -((h[:, 0] / (h[:, 0] + c + 1e-7)).log() + negatives).mean()

    sides = unit(FS), unit(FT)
    loss = functional.crd(*sides, of_student, of_teacher, drawn, log_z.double(), t)
    return loss, side(sides[0], of_teacher, log_z[0]) + side(sides[1], of_student, log_z[1])


def routed_pair() -> tuple[Tensor, Tensor]:
    log_gate, teachers = draw(N, 3).log_softmax(dim=1), draw(3, N, C)
    parts = [(log_gate.exp()[:, w] * kl(p(teachers[w], 4), p(ZS, 4))).mean() for w in range(3)]
    mean = log_gate.exp().mean(dim=0)
    loss = routed_kl(ZS, teachers, log_gate, 4.0) + imbalance(log_gate)
    return loss, 16 * torch.stack(parts).sum() + (-(3 * mean).log() / 3).sum()


def selected_pair() -> tuple[Tensor, Tensor]:
    pairs = [(c, d) for c in range(C) for d in range(c)]
    tau = torch.stack([((ZS[:, c] - ZS[:, d]) * (ZT[:, c] - ZT[:, d])).sign() for c, d in pairs])
    chosen = tau.mean(dim=0) > 0  # no ties
    assert 0 < chosen.sum() < N
    torch.testing.assert_close(kendall_tau(ZS, ZT), tau.mean(dim=0))
    both = kl(hat(ZT), hat(ZS)) + kl(hat(ZS), hat(ZT))
    return selected_nckl(ZS, ZT, Y), both[chosen].mean()


VARIANCE = torch.linspace(0.1, 2, D, dtype=torch.float64)
LOSSES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "kd": lambda: (functional.kd(ZS, ZT, 4), kd(4)),
    "kd standardized": lambda: (
        functional.kd(ZS, ZT, 2, standardize=True),
        4 * kl(p(scores(ZT), 2), p(scores(ZS), 2)).mean(),
    ),
    "kd, split": lambda: (functional.kd(ZS, ZT, 4), kd_split(4)),
    "dkd": lambda: (functional.dkd(ZS, ZT, Y, 1, 8, 4), dkd(1, 8, 4)),
    "nkd": lambda: (functional.nkd(ZS, ZT, Y, 1.5, 3), nkd(1.5, 3)),
    "dist": lambda: (functional.dist(ZS, ZT, 0.7, 1.3, 2), dist(0.7, 1.3, 2)),
    "wttm": lambda: (
        functional.wttm(ZS, ZT, 5),
        ((p(ZT) ** 0.2).sum(dim=1) * kl(p(ZT, 5), p(ZS))).mean(),
    ),
    "mlkd": lambda: (
        functional.mlkd(ZS, ZT, [2, 5]),
        (mlkd(2) + mlkd(5)) / 2,
    ),
    "skd": lambda: (functional.skd(ZS, ZT, 4, 0.1), skd(4, 0.1)),
    "ofa": lambda: (functional.ofa(ZS, ZT, Y, 1.4, 2), ofa(1.4, 2)),
    "fitnet": lambda: (functional.fitnet(FS, FT), squares(FS - FT) / (N * D)),
    "at": lambda: (
        functional.at(MAP_S, MAP_T),
        squares(attention(MAP_S) - attention(MAP_T)) / (N * SIDE**2),
    ),
    "vid": lambda: (
        functional.vid(FS, FT, VARIANCE),
        (((FS - FT).square() / VARIANCE + VARIANCE.log()) / 2).sum() / (N * D),
    ),
    "reviewkd": lambda: (functional.reviewkd(MAP_S, MAP_T), reviewed()),
    "srd": lambda: (functional.srd(FS, FT, 4), srd(4)),
    "simkd": lambda: (
        functional.simkd(MAP_S, MAP_T),
        squares(MAP_S - MAP_T) / (N * D * SIDE**2),
    ),
    "crd": crd_pair,
    "rkd": lambda: (functional.rkd(FS, FT, 25, 50), rkd(25, 50)),
    "pkt": lambda: (functional.pkt(FS, FT), pkt()),
    "sp": lambda: (functional.sp(FS, FT), squares(unit(FS @ FS.T) - unit(FT @ FT.T)) / N**2),
    "cc": lambda: (functional.cc(FS, FT, 0.4, 2), cc(0.4, 2)),
    "mutual": lambda: (
        mutual_kl(ZS, ZT, 2),
        4 * (kl(p(ZT, 2), p(ZS, 2)) + kl(p(ZS, 2), p(ZT, 2))).mean(),
    ),
    "C2KD": selected_pair,
    "MST-Distill": routed_pair,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_formula_is_the_loss(name: str) -> None:
    loss, formula = LOSSES[name]()
    torch.testing.assert_close(loss, formula, rtol=1e-6, atol=0)


def test_every_loss_has_its_formula() -> None:
    assert set(functional.__all__) <= LOSSES.keys()


def test_the_divergences_of_the_masks_are_those_printed() -> None:
    a, b = hat(ZT), hat(ZS)
    m = (a + b) / 2
    torch.testing.assert_close(ncjsd(ZT, ZS, Y), (kl(a, m) + kl(b, m)) / 2)
    at, bt = p(ZT)[ROWS, Y], p(ZS)[ROWS, Y]
    mt = (at + bt) / 2
    printed = (at * (at / mt).log() + bt * (bt / mt).log()) / 2
    torch.testing.assert_close(tcjsd(ZT, ZS, Y), printed)
