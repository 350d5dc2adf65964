"""The contrastive loss as a function, and its numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ntdh_bench.distillers.contrastive import _Room, _softplus, contrast_losses
from ntdh_bench.distillers.functional import crd, unit_rows
from ntdh_bench.distillers.negatives import given
from tests.helpers import assert_bits


def test_crd_of_tables_against_the_formula() -> None:
    """The positive is column 0; every direction has the other network's bank."""
    stream = torch.Generator().manual_seed(0)

    def rows(number: int) -> torch.Tensor:
        return unit_rows(torch.randn(number, 6, generator=stream, dtype=torch.float64))

    sides, banks = [rows(4).requires_grad_() for _ in range(2)], [rows(9), rows(9)]
    contrast = torch.randint(9, (4, 6), generator=stream)
    log_z = torch.tensor([2.0, 3.0], dtype=torch.float64)
    loss = crd(*sides, *banks, contrast, log_z, 0.2)
    expected = torch.zeros((), dtype=torch.float64)
    for side, bank, z in zip(sides, banks[::-1], log_z, strict=True):
        scores = torch.einsum("bd,bkd->bk", side, bank[contrast])
        h, noise = (scores / 0.2 - z).exp(), 5 / 9
        share = torch.cat([h[:, :1], torch.full((4, 5), noise, dtype=torch.float64)], 1)
        expected = expected - (share / (h + noise + 1e-7)).log().sum() / 4
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(loss, expected, **close)
    ours, theirs = (torch.autograd.grad(value, sides) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize("batch", [64, 40])
def test_gradients_have_the_bits_of_the_first_records(batch: int) -> None:
    """Of the RAVDESS features: a last bit grows to per cents of accuracy in hundreds of steps."""
    members, n_data, number = 4, 960, 512
    stream = torch.Generator().manual_seed(0)

    def rows(count: int) -> torch.Tensor:
        return unit_rows(torch.randn(members, count, 128, generator=stream))

    sides = torch.stack([rows(batch), rows(batch)]).requires_grad_()
    memories = rows(n_data), rows(n_data)
    positives = torch.stack([torch.arange(batch)] * members)
    drawn = torch.randint(n_data, (members, batch, number), generator=stream)
    log_z = torch.linspace(5, 7, 2 * members).view(2, members)
    temperature = torch.tensor([0.07, 0.25, 0.5, 1.0], dtype=torch.float64)
    numbers = log_z, positives, given(drawn, n_data), temperature
    (gradient,) = torch.autograd.grad(contrast_losses(sides, memories, *numbers).sum(), sides)
    log_noise = math.log(number / n_data + 1e-7)
    for side, k in itertools.product(range(2), range(members)):
        one, bank, t = sides[side, k].detach(), memories[side][k], float(temperature[k])
        contrast = torch.cat([positives[k][:, None], drawn[k]], dim=1)
        table = one @ bank.T
        odds = table.gather(1, contrast).div_(t).sub_(log_z[side, k] + log_noise)
        odds[:, 0].neg_()
        slope = odds.sigmoid_().div_(batch * t)
        slope[:, 0].neg_()
        expected = table.zero_().scatter_add_(1, contrast, slope) @ bank
        assert_bits(gradient[side, k], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_keeps_tiny_terms_and_large_ones(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-80, 80, 3201), torch.tensor([-1e4, -300.0, 300.0, 1e4])])
    x = x.to(dtype)
    exact = torch.logaddexp(x.double(), torch.zeros((), dtype=torch.float64))
    values = _softplus(x, _Room(x))
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": torch.finfo(dtype).tiny}
    torch.testing.assert_close(values.double(), exact, **close)
