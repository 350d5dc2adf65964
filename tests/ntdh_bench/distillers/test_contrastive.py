"""The contrastive loss as a function, and its numbers."""

from __future__ import annotations

import pytest
import torch

from ntdh_bench.distillers.contrastive import _Room, _softplus
from ntdh_bench.distillers.functional import crd, unit_rows


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_keeps_tiny_terms_and_large_ones(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-80, 80, 3201), torch.tensor([-1e4, -300.0, 300.0, 1e4])])
    x = x.to(dtype)
    exact = torch.logaddexp(x.double(), torch.zeros((), dtype=torch.float64))
    slope = x.double().sigmoid()
    values, slopes = _softplus(x.clone(), _Room(x))
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": torch.finfo(dtype).tiny}
    torch.testing.assert_close(values.double(), exact, **close)
    torch.testing.assert_close(slopes.double(), slope, **close)
