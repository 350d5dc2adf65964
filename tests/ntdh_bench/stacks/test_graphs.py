"""Recorded steps, with a recorder that repeats a pass as it is: there need not be a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.stacks.graphs import StepGraph
from tests.typed import some

Pass = Callable[[], Tensor]


def as_it_is(run: Pass) -> Pass:
    for _ in range(3):  # warming up adds gradients
        run()
    return run


def forgetful(run: Pass) -> Pass:
    result = run()
    return lambda: result + 1


def refusing(run: Pass) -> Pass:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def batch(rows: int = 4, seed: int = 0) -> PairedBatch:
    torch.manual_seed(seed)
    inputs = {"a": torch.randn(2, rows, 3), "b": torch.randn(2, rows, 3)}
    index = torch.zeros(2, rows, dtype=torch.int64)
    return PairedBatch(teacher=inputs, student=inputs["a"], target=index, index=index)


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def losses_of(layer: nn.Linear) -> Callable[[PairedBatch, int], Tensor]:
    def losses(batch: PairedBatch, batch_idx: int) -> Tensor:
        teacher = batch["teacher"]
        assert isinstance(teacher, dict)
        out: Tensor = layer(batch["student"]) - layer(teacher["b"])
        return out.square().sum((1, 2))

    return losses


@pytest.mark.parametrize("record", [as_it_is, forgetful, refusing])
def test_losses_and_gradients_are_those_of_the_batch(
    record: Callable[[Pass], Pass], layer: nn.Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = losses_of(layer)
    graph = StepGraph(losses, layer.parameters(), record)
    for seed in range(3):
        graph.zero_grad()
        given = batch(seed=seed)
        found = graph(given, 0.5)
        if found is None:  # it could not be recorded: after the first step, which was done
            assert seed > 0
            assert record is not as_it_is
            continue
        found = found.clone()
        slopes = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        layer.zero_grad(set_to_none=False)
        wanted = losses(given, 0)
        (wanted.sum() * 0.5).backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(slopes, [p.grad for p in layer.parameters()])
    said = capsys.readouterr().err
    assert ("without a CUDA graph" in said) == (record is not as_it_is)
    assert ("stream is capturing" in said) == (record is refusing)


def test_batches_of_another_size_have_no_graph(layer: nn.Linear) -> None:
    graph = StepGraph(losses_of(layer), layer.parameters(), as_it_is)
    graph.zero_grad()
    assert graph(batch(4), 1.0) is not None
    assert graph(batch(3), 1.0) is None
    assert graph(batch(4), 1.0) is not None


def test_gradients_add_up_until_they_are_zeroed(layer: nn.Linear) -> None:
    graph = StepGraph(losses_of(layer), layer.parameters(), as_it_is)
    graph.zero_grad()
    graph(batch(), 1.0)
    assert layer.weight.grad is not None
    once = layer.weight.grad.clone()
    graph(batch(), 1.0)
    torch.testing.assert_close(layer.weight.grad, 2 * once)
    graph.zero_grad()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("zeroed", [True, False])
def test_gradients_that_were_dropped_are_given_back(zeroed: bool, layer: nn.Linear) -> None:
    """As Lightning does before a validation; a recorded step knows no other place for them."""

    def at_its_place(run: Pass) -> Pass:
        run()
        places = [parameter.grad for parameter in layer.parameters()]

        def replay() -> Tensor:
            now = [parameter.grad for parameter in layer.parameters()]
            give(places)
            result = run()
            give(now)
            return result

        return replay

    def give(gradients: list[Tensor | None]) -> None:
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            parameter.grad = gradient

    graph = StepGraph(losses_of(layer), layer.parameters(), at_its_place)
    graph.zero_grad()
    graph(batch(seed=0), 1.0)
    layer.zero_grad()
    if zeroed:
        graph.zero_grad()
    graph(batch(seed=1), 1.0)
    found = [some(parameter.grad).clone() for parameter in layer.parameters()]
    layer.zero_grad()
    losses_of(layer)(batch(seed=1), 0).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, [parameter.grad for parameter in layer.parameters()])


def test_a_member_that_is_not_finite_leaves_the_others_their_graph(
    layer: nn.Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.tensor([1.0, torch.inf])
    losses = losses_of(layer)
    graph = StepGraph(lambda b, n: losses(b, n) * weights, layer.parameters(), as_it_is)
    for _ in range(2):
        graph.zero_grad()
        assert graph(batch(), 1.0) is not None
    assert capsys.readouterr().err == ""
