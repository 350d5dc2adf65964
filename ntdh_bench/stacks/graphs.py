"""The forward and backward pass of a step as one CUDA graph: kernels without their launches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from ntdh_bench.batch import Inputs, PairedBatch, tensors_of
from ntdh_bench.notices import notice

Losses: TypeAlias = Callable[[PairedBatch, int], Tensor]
Pass: TypeAlias = Callable[[], Tensor]

_WARM_UPS = 3
_TOLERANCE = 1e-4  # of a replayed step, against the same step launched kernel by kernel


def cuda_graph(run: Pass) -> Pass:
    """Return what repeats the kernels that ``run`` launches, and returns its result."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class StepGraph:
    """Losses of batches of one shape, whose gradients are added to those of the parameters.

    It is recorded at its first batch, and compared with that step as it is without a graph. Where
    it cannot be recorded, or gives something else, this is said and steps stay as they were.

    A recorded step adds to the gradients where they were in memory, so that they are held here, and
    given back to parameters that lost them: Lightning drops all gradients before a validation.

    Args:
        losses: of a batch, ``(K,)``; without state and random numbers.
        parameters: those that are trained get gradients, and keep the tensors of these.
        record: from a pass to what repeats it.
    """

    def __init__(
        self, losses: Losses, parameters: Iterable[nn.Parameter], record: Callable[[Pass], Pass]
    ) -> None:
        self._losses, self._record = losses, record
        self._parameters = [value for value in parameters if value.requires_grad]
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._batch: PairedBatch | None = None
        self._replay: Pass | None = None

    def zero_grad(self) -> None:
        """Set the gradients to zero where they are."""
        torch._foreach_zero_(self._gradients)

    def _give_back(self) -> None:
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            if parameter.grad is not gradient:
                parameter.grad = gradient.zero_()

    def __call__(self, batch: PairedBatch, scale: float) -> Tensor | None:
        """Return the losses ``(K,)``; ``None`` of a batch for which there is no graph.

        Args:
            batch: whose losses are summed up and differentiated.
            scale: of the gradients.
        """
        self._give_back()
        if self._batch is None:
            self._batch = cast(PairedBatch, {n: _copied(v) for n, v in batch.items()})
            return self._recorded(scale)
        if self._replay is None or _shapes(batch) != _shapes(self._batch):
            return None
        for name, value in batch.items():
            _copy(value, self._batch[name])  # type: ignore[literal-required]
        return self._replay()

    def _recorded(self, scale: float) -> Tensor:
        def run() -> Tensor:
            assert self._batch is not None
            losses = self._losses(self._batch, 0)
            (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
            return losses.detach()

        before = [gradient.clone() for gradient in self._gradients]
        losses = run().clone()
        after = [gradient.clone() for gradient in self._gradients]
        try:
            replay = self._record(run)
            self._set(before)
            same = _close([replay(), *self._gradients], [losses, *after])
            reason = "its first replay gives other numbers"
        except RuntimeError as error:
            same, reason = False, str(error).splitlines()[0]
        if same:
            self._replay = replay
        else:
            notice(f"steps are launched kernel by kernel, without a CUDA graph: {reason}")
        self._set(after)
        return losses

    def _set(self, gradients: list[Tensor]) -> None:
        torch._foreach_copy_(self._gradients, gradients)


def _close(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Return whether tensors are equal up to a share of their largest numbers.

    What is not finite is not compared: it is of a member that fails anyway.
    """
    return all(
        bool(((a - b).abs().amax() <= _TOLERANCE * b.abs().amax()).item())
        for a, b in zip(map(_finite, found), map(_finite, wanted), strict=True)
        if b.numel()
    )


def _finite(value: Tensor) -> Tensor:
    return value.nan_to_num(0, 0, 0)


def _shapes(batch: PairedBatch) -> list[torch.Size]:
    return [value.shape for inputs in batch.values() for value in tensors_of(cast(Inputs, inputs))]


def _copied(inputs: object) -> Inputs:
    if isinstance(inputs, dict):
        return {name: value.clone() for name, value in inputs.items()}
    return cast(Tensor, inputs).clone()


def _copy(inputs: object, to: object) -> None:
    pairs = zip(tensors_of(cast(Inputs, inputs)), tensors_of(cast(Inputs, to)), strict=True)
    for value, place in pairs:
        place.copy_(value)
