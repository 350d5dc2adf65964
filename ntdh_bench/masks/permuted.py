"""One batch of Algorithm 1: the distance with each feature permuted in turn, vectorised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ntdh_bench.batch import Inputs
from ntdh_bench.errors import UserError
from ntdh_bench.layers import INPUT, FeatureTap, change_layer
from ntdh_bench.masks import tail
from ntdh_bench.masks.nontarget import FeatureScore, Reference, class_rows

# Most features evaluated at once, and most rows whatever the batch size: they bound the memory.
_CHUNK = 16
_MAX_ROWS = 2**16
# Where fewer values than this change, gathering the changed rows beats computing all of them.
_SPARSE_BELOW = 0.8


class PermutedTeacher:
    """The teacher on one batch with one feature of a layer permuted over its samples.

    Three ways to the same numbers, by the network's form:

    - a chain whose layer feeds a Linear: a permuted column is a rank-1 change of the Linear's
      output, and only what follows is run. A value that the permutation leaves as it is changes
      nothing, so its row is skipped;
    - another chain: what follows the layer is run;
    - any other network: all of it is run, with a hook that permutes.

    Args:
        teacher: in eval mode.
        layer: its layer, or ``"input"``.
        inputs: of the teacher, B samples.
        student_logits: ``(B, C, *spatial)``.
        target: int64 ``(B, *spatial)``.
        ignore_index: targets that do not count.
        score: distance of teacher and student, per row.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layer: str,
        inputs: Inputs,
        student_logits: Tensor,
        target: Tensor,
        ignore_index: int,
        score: FeatureScore = "ncjsd",
    ) -> None:
        self.teacher, self.layer, self.inputs = teacher, layer, inputs
        self.size = len(target)
        logits, self.features = layer_output(teacher, layer, inputs)
        self.width = self.features.shape[1]
        labels = target.flatten()
        self.valid = (labels != ignore_index).nonzero().squeeze(1)
        self.rows = len(self.valid)
        self.reference = Reference.of(
            score, class_rows(student_logits, 1)[:, 0, self.valid], labels[self.valid]
        )
        self.chain = self._chain(logits)
        self.linear_at = self._linear_at(logits)
        # On a GPU a launch costs more than its rows, which here are those of one layer's output.
        wide = self.linear_at is not None and self.features.device.type != "cpu"
        self.chunk = max(1, min(self.width if wide else _CHUNK, _MAX_ROWS // self.size))
        if self.linear_at is not None:
            self._prepare_rank_one(self.linear_at)
            logits = tail.run(self.after_linear, self.pre.clone())
            self.base = self.reference.distances(class_rows(logits, 1))[0]
        else:
            self.base = self.reference.distances(class_rows(logits, 1)[..., self.valid])[0]
        self.unmasked = float(self.base.sum())

    def difference(self, order: Tensor) -> Tensor:
        """Return distance unmasked - permuted, summed over rows: float64 ``(D,)`` on the CPU.

        Args:
            order: permutation of the B samples.
        """
        order = order.to(self.features.device)
        if self.linear_at is None:
            return self._by_forward(order)
        change = (self.features[order] - self.features)[self.valid].t().contiguous()
        changed = change != 0
        if changed.sum() < _SPARSE_BELOW * changed.numel():
            return self._by_changed_rows(change, changed)
        return self._by_rank_one(change)

    def _chain(self, logits: Tensor) -> tail.Chain | None:
        """Return the network cut after the layer, if running the parts gives its logits.

        The comparison guards against whatever a chain of modules does not show: hooks on the
        containers, a mask in place.
        """
        chain = tail.cut(self.teacher, self.layer)
        if chain is None:
            return None
        values = self.features.clone()
        if self.layer == INPUT:
            assert isinstance(self.inputs, Tensor)
            values = values.view(self.inputs.shape)
        same = torch.allclose(tail.run(chain.tail, values), logits, rtol=1e-4, atol=1e-5)
        return chain if same else None

    def _linear_at(self, logits: Tensor) -> int | None:
        if self.chain is None or self.features.dim() != 2 or logits.dim() != 2:
            return None
        return tail.starts_with_linear(self.chain.tail, self.width)

    def _prepare_rank_one(self, position: int) -> None:
        assert self.chain is not None
        linear = self.chain.tail[position]
        assert isinstance(linear, nn.Linear)
        self.weight = linear.weight.t().contiguous()
        self.pre = linear(self.features)[self.valid]
        self.after_linear = self.chain.tail[position + 1 :]

    def _by_rank_one(self, change: Tensor) -> Tensor:
        """Change the Linear's output by ``change[i] * W[:, i]``, several features at once."""
        sums = self.base.new_empty(self.width)
        buffer = self.pre.new_empty(self.chunk, *self.pre.shape)
        for first in range(0, self.width, self.chunk):
            part = slice(first, first + self.chunk)
            column = change[part].unsqueeze(2)
            changed = buffer[: len(column)]
            torch.addcmul(self.pre, column, self.weight[part].unsqueeze(1), out=changed)
            logits = tail.run(self.after_linear, changed.flatten(0, 1))
            distances = self.reference.distances(class_rows(logits, len(column)))
            sums[part] = (self.base - distances).sum(1)
        return sums.cpu()

    def _by_changed_rows(self, change: Tensor, changed: Tensor) -> Tensor:
        """As :meth:`_by_rank_one` for the rows whose value changes; the others contribute 0."""
        difference = self.base.new_zeros(self.width, self.rows)
        features, rows = changed.nonzero(as_tuple=True)
        block = self.chunk * self.size
        for feature, row in zip(
            torch.split(features, block), torch.split(rows, block), strict=True
        ):
            values = self.weight[feature].mul_(change[feature, row].unsqueeze(1))
            logits = tail.run(self.after_linear, values.add_(self.pre[row]))
            distances = self.reference.distances_of_rows(logits.t(), row)
            difference[feature, row] = self.base[row] - distances
        return difference.sum(1).cpu()

    def _by_forward(self, order: Tensor) -> Tensor:
        sums = self.base.new_empty(self.width)
        for first in range(0, self.width, self.chunk):
            part = range(first, min(first + self.chunk, self.width))
            logits = self._forward(order, part)
            rows = class_rows(logits, len(part))[..., self.valid]
            sums[first : part.stop] = (self.base - self.reference.distances(rows)).sum(1)
        return sums.cpu()

    def _forward(self, order: Tensor, part: range) -> Tensor:
        """Return the logits of ``len(part)`` copies of the batch, one permuted feature in each."""
        if self.chain is not None:
            copies = self.features.repeat(len(part), *[1] * (self.features.dim() - 1))
            permuted = permute_features(copies, order, part)
            if self.layer == INPUT:
                assert isinstance(self.inputs, Tensor)
                permuted = permuted.view(-1, *self.inputs.shape[1:])
            return tail.run(self.chain.tail, permuted)
        handle = change_layer(
            self.teacher,
            self.layer,
            lambda features: permute_features(features.clone(), order, part),
        )
        try:
            logits: Tensor = self.teacher(_repeat(self.inputs, len(part)))
        finally:
            handle.remove()
        return logits


def permute_features(values: Tensor, order: Tensor, features: range) -> Tensor:
    """Permute feature ``features[j]`` of the j-th copy of a batch in place.

    Args:
        values: ``(K * B, D, ...)``, K copies of a batch one after the other.
        order: permutation of the B samples.
        features: K features.
    """
    for values_of_copy, feature in zip(torch.split(values, len(order)), features, strict=True):
        values_of_copy[:, feature] = values_of_copy[order, feature]
    return values


def layer_output(teacher: nn.Module, layer: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the logits and the features ``(B, D, ...)`` of ``layer``."""
    if layer == INPUT:
        values = check_maskable(inputs)
        logits: Tensor = teacher(values)
        return logits, values.flatten(1)
    tap = FeatureTap(teacher, [layer])
    try:
        outputs = tap(inputs)
    finally:
        tap.close()
    if not isinstance(outputs.get(layer), Tensor) or outputs[layer].dim() < 2:
        raise UserError(f"layer {layer!r} gives no features (B, D, ...) in the teacher's forward")
    return outputs["logits"], outputs[layer].clone()


def check_maskable(inputs: Inputs) -> Tensor:
    """Return inputs of which features are masked.

    Raises:
        UserError: they are several tensors.
    """
    if isinstance(inputs, Tensor):
        return inputs
    raise UserError(
        f"mask.layer is {INPUT!r}, but the teacher has several inputs ({', '.join(inputs)}): mask "
        "a layer, such as hidden2"
    )


def _repeat(inputs: Inputs, copies: int) -> Inputs:
    if isinstance(inputs, dict):
        return {
            name: value.repeat(copies, *[1] * (value.dim() - 1)) for name, value in inputs.items()
        }
    return inputs.repeat(copies, *[1] * (inputs.dim() - 1))
