"""Negatives: who gets which, and that every form of reading the banks has all of them."""

from __future__ import annotations

import copy
import pickle
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ntdh_bench.distillers import negatives
from ntdh_bench.distillers.negatives import Counted, Draws, Listed, Picked, Shared, given
from ntdh_bench.distillers.ranks import Share
from ntdh_bench.seeding import generator

N_DATA, BATCH, NUMBER = 30, 4, 7
CPU = torch.device("cpu")


def whole(rows: int) -> Share:
    """Return the share of a process that draws alone."""
    return Share(0, rows, rows)


def test_draws_are_uniform() -> None:
    drawn = Draws([1], 3000).at(0, whole(BATCH), N_DATA, CPU)
    assert isinstance(drawn, Counted)
    counts = drawn.drawn[0].sum(0).double()
    expected = BATCH * 3000 / N_DATA
    assert counts.sum() == BATCH * 3000
    assert ((counts - expected).square() / expected).sum() < 60  # chi-square, 29 degrees of freedom


def test_members_of_one_seed_share_a_draw() -> None:
    drawn = Draws([5, 3, 5], NUMBER).at(2, whole(BATCH), N_DATA, CPU)
    assert list(drawn.streams) == [0, 1, 0]
    for seed, rows in zip((5, 3), drawn.drawn, strict=True):
        stream = generator(seed, "crd", 2, 0)
        assert torch.equal(rows, torch.randint(N_DATA, (BATCH, NUMBER), generator=stream))


def test_a_smaller_batch_has_the_first_rows_of_the_draw() -> None:
    draws = Draws([0], NUMBER)
    every, part = (draws.at(0, whole(rows), N_DATA, CPU).drawn[0] for rows in (BATCH, BATCH - 1))
    assert torch.equal(every[:-1], part)


@pytest.mark.parametrize("number", [NUMBER, 40])
def test_ranks_that_draw_together_have_the_rows_of_one_draw(number: int) -> None:
    draws = Draws([0], number)
    shares = Share(0, 3, BATCH, 2), Share(3, 1, BATCH, 2)
    parts = [draws.at(1, share, N_DATA, CPU).drawn[0] for share in shares]
    assert torch.equal(torch.cat(parts), draws.at(1, whole(BATCH), N_DATA, CPU).drawn[0])


def test_shared_negatives_are_a_stream_of_their_own() -> None:
    first, second = (Draws([0], 40, True).at(step, whole(BATCH), 10**6, CPU) for step in (0, 1))
    assert isinstance(first, Shared)
    assert first.drawn[0].shape == (40,)
    assert not torch.equal(first.drawn[0], second.drawn[0])
    rows = Draws([0], 40).at(0, whole(1), 10**6, CPU).drawn[0]
    assert not torch.equal(first.drawn[0], rows[0])


def test_draws_ahead_are_those_of_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a GPU: in threads, one step ahead; a change of step or rows is noticed."""
    device: Any = SimpleNamespace(type="elsewhere")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    threads = []
    draw = Draws._draw

    def noting(*arguments: Any) -> torch.Tensor:
        threads.append(threading.current_thread())
        return draw(*arguments)

    monkeypatch.setattr(Draws, "_draw", noting)
    ahead, now = Draws([1, 2], NUMBER), Draws([1, 2], NUMBER)
    for step, rows in ((0, 4), (1, 4), (2, 3), (3, 4), (3, 4), (0, 4)):
        found = ahead.at(step, whole(rows), N_DATA, device).drawn
        threads.clear()
        for one, other in zip(found, now.at(step, whole(rows), N_DATA, CPU).drawn, strict=True):
            assert torch.equal(one, other)
    ahead.at(1, whole(4), N_DATA, device)
    assert threading.main_thread() not in threads[2:]
    copied = [copy.deepcopy(ahead), pickle.loads(pickle.dumps(ahead))]
    same = now.at(0, whole(4), N_DATA, CPU).drawn[1]
    for one in copied:
        assert torch.equal(one.at(0, whole(4), N_DATA, CPU).drawn[1], same)


@pytest.mark.parametrize("cells", [1, 50, 2**18])
@pytest.mark.parametrize(
    ("number", "n_data", "form"), [(7, 30, Picked), (40, 30, Counted), (1, 100, Listed)]
)
def test_blocks_hold_every_negative_once(
    number: int, n_data: int, form: type, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of three members, each row of a bank known by its number."""
    monkeypatch.setattr(negatives, "CPU_CELLS", cells)
    rows = torch.randint(n_data, (3, BATCH, number))
    memory = (torch.arange(n_data) + 1000.0 * torch.arange(3)[:, None])[..., None]
    seen: list[list[list[float]]] = [[[] for _ in range(BATCH)] for _ in range(3)]
    drawn = given(rows, n_data)
    assert type(drawn) is form
    positives = torch.full((3, BATCH), 1)
    for block in drawn.blocks([memory], positives):
        for at, member in enumerate(range(3)[block.members]):
            for line, sample in enumerate(range(BATCH)[block.samples]):
                bank = block.banks[0][at, :, 0]
                if block.picks is not None:
                    first, *others = block.picks[at, line]
                    assert first == 1
                    bank = bank[torch.stack(others)]
                if block.counts is not None:
                    counts = block.counts.expand(len(block.banks[0]), -1, -1)[at, line]
                    bank = bank.repeat_interleave(counts)
                seen[member][sample] += bank.tolist()
    for member in range(3):
        expected = (rows[member] + 1000.0 * member).sort(dim=1).values.tolist()
        assert [sorted(found) for found in seen[member]] == expected


def test_a_row_may_be_drawn_more_often_than_small_integers_count() -> None:
    drawn = given(torch.zeros(1, 2, 40_000, dtype=torch.int64), 3)
    assert drawn.drawn[0].tolist() == [[40_000, 0, 0]] * 2
