"""Algorithm 1: how much each feature of the teacher contributes to its distance from f_b."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.arrays import Spec, read_npz
from ntdh_bench.layers import find_layer
from ntdh_bench.masks.nontarget import FeatureScore
from ntdh_bench.masks.permuted import PermutedTeacher
from ntdh_bench.networks import device_of, evaluating, to_device
from ntdh_bench.ranges import check_at_least, check_choice
from ntdh_bench.seeding import generator

#: The arrays of a saliency file.
_SAVED = {
    "values": Spec("f", (-1,), 8), "normalised": Spec("f", (-1,), 8), "unmasked": Spec("f", ()),
    "score": Spec("U", ()), "layer": Spec("U", ()), "permutations": Spec("i", ()),
    "seed": Spec("i", ()), "n_samples": Spec("i", ()),
}  # fmt: skip
_REMEDY = "delete it to compute it again"
# The largest value of a score.
_BOUNDS: dict[str, float] = {"ncjsd": math.log(2), "mse": math.inf}


@dataclass(frozen=True)
class Saliency:
    """Result of Algorithm 1.

    Attributes:
        values: float64 ``(D,)``, signed: score unmasked minus score with the feature permuted.
            Positive: the feature makes teacher and student disagree.
        unmasked: mean score of the unmasked networks.
        layer: the teacher's layer.
        permutations: M.
        seed: of the permutations.
        n_samples: rows averaged over (pixels or points for dense tasks).
        score: ``ncjsd``, in nats in [0, ln 2], or ``mse``, the mean squared difference of logits.
    """

    values: Tensor
    unmasked: float
    layer: str
    permutations: int
    seed: int
    n_samples: int
    score: FeatureScore = "ncjsd"

    def normalised(self) -> Tensor:
        """Return the values scaled to [0, 1] for display (step 13); zeros if all are equal."""
        low, high = self.values.min(), self.values.max()
        if low == high:
            return torch.zeros_like(self.values)
        return (self.values - low) / (high - low)

    @staticmethod
    def of_checkpoint(state: dict[str, Any]) -> Saliency:
        """Return what a checkpoint holds; older ones name the score of the unmasked ``ncjsd``."""
        names = {"ncjsd": "unmasked"}
        return Saliency(**{names.get(name, name): value for name, value in state.items()})

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file, whole or not at all.

        Raises:
            UserError: the folder cannot be written.
        """
        with write_atomic(path) as temporary:
            self.write(temporary)

    def write(self, path: Path) -> None:
        """Write an ``.npz`` file at ``path`` itself, which must end in ``.npz``."""
        np.savez(
            path,
            values=self.values.cpu().numpy(),
            normalised=self.normalised().cpu().numpy(),
            unmasked=self.unmasked,
            score=self.score,
            layer=self.layer,
            permutations=self.permutations,
            seed=self.seed,
            n_samples=self.n_samples,
        )

    @staticmethod
    def load(path: Path) -> Saliency:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is missing or is no saliency file.
        """
        arrays = read_npz(path, _SAVED, remedy=_REMEDY)
        if missing := sorted(_SAVED.keys() - arrays.keys()):
            raise FileError(f"{path}: no array {missing[0]!r}; {_REMEDY}")
        values = torch.from_numpy(arrays["values"])
        numbers = {name: arrays[name].item() for name in ("permutations", "seed", "n_samples")}
        if not len(values) or numbers["permutations"] < 1 or numbers["n_samples"] < 1:
            raise FileError(f"{path}: no features, permutations or samples; {_REMEDY}")
        score, unmasked = str(arrays["score"].item()), arrays["unmasked"].item()
        bound = _BOUNDS.get(score, -1.0)
        if not 0 <= unmasked <= bound or values.abs().max() > bound:
            raise FileError(f"{path}: no score, or one beyond its bounds; {_REMEDY}")
        named: dict[str, Any] = {"layer": str(arrays["layer"].item()), "score": score}
        return Saliency(values, unmasked, **named, **numbers)


@dataclass(frozen=True)
class FeatureSaliency:
    """Algorithm 1, step 5: permutation importance of features for the NCJSD, or another score.

    The saliency of feature i is NCJSD(unmasked) - NCJSD(feature i permuted over the samples of a
    batch), averaged over ``permutations`` permutations and all batches, each row counting alike.
    (Algorithm 1 as printed adds up NCJSD(permuted) alone and masks the top, which is exactly the
    reverse order. With this sign a large value means that the feature *contributes* divergence, as
    the paper's text has it.)

    ``score: mse`` puts the mean squared difference of logits in place of the NCJSD: the saliency of
    MFH (Xue et al., "The Modality Focusing Hypothesis", ICLR 2023, Algorithm 1), which removes what
    has the lowest MSE(permuted), hence the largest value here; the score of the unmasked networks,
    which it does not subtract, moves no rank. Its authors train the pair with this distance (ours
    with that of Eq. 26), and their code for RAVDESS keeps the last batch of 512 instead of all.

    Permutation m of batch b is drawn from (seed, "saliency", m, b) and shared by all features.
    Networks run as they are (float32); divergences, sums and ranks are float64.

    Args:
        layer: a layer of the teacher, whose features are its channels (dim 1), or ``"input"``,
            whose features are the elements of a sample.
        permutations: M >= 1.
        seed: of the permutations.
        score: ``ncjsd`` or ``mse``.

    Raises:
        UserError: ``permutations`` below 1, or an unknown score.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> shared, own = torch.randn(2, 64, 1, generator=stream)
        >>> teacher, student = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(1, 3, bias=False)
        >>> weights = torch.tensor([[0.0], [2.0], [-2.0]])
        >>> _ = student.weight.data.copy_(weights)
        >>> _ = teacher.weight.data.copy_(torch.cat([weights, weights], dim=1))
        >>> batch = {
        ...     "teacher": torch.cat([shared, own], dim=1),  # the student does not see the second
        ...     "student": shared,
        ...     "target": torch.zeros(64, dtype=torch.long),
        ... }
        >>> found = FeatureSaliency("input").compute(teacher, student, [batch])
        >>> found.values > 0  # which make teacher and student disagree
        tensor([False,  True])
        >>> found.normalised()
        tensor([0., 1.], dtype=torch.float64)
    """

    layer: str
    permutations: int = 5
    seed: int = 0
    score: FeatureScore = "ncjsd"

    def __post_init__(self) -> None:
        check_at_least("mask.permutations", self.permutations, 1)
        check_choice("mask.score", self.score, get_args(FeatureScore))

    @torch.no_grad()
    def compute(
        self,
        teacher: nn.Module,
        student: nn.Module,
        batches: Iterable[PairedBatch],
        ignore_index: int = 255,
    ) -> Saliency:
        """Run Algorithm 1 over all ``batches`` with both networks in eval mode.

        Args:
            teacher: f_a, on ``batch["teacher"]``; returns logits ``(B, C, *spatial)``.
            student: f_b, on ``batch["student"]``.
            batches: training batches in a fixed order, on any device.
            ignore_index: targets left out of every average.

        Raises:
            UserError: the layer does not exist or does not run, no target counts, or a network
                gives logits that are not finite.
        """
        find_layer(teacher, self.layer)
        zero = torch.zeros((), dtype=torch.float64)
        difference, unmasked, rows = zero, 0.0, 0
        with evaluating(teacher, student):
            for number, batch in enumerate(batches):
                evaluation = self._evaluation(teacher, student, batch, ignore_index)
                if evaluation.rows:
                    orders = self._orders(number, len(batch["target"]))
                    difference = difference + sum(map(evaluation.difference, orders), zero)
                    unmasked += evaluation.unmasked
                    rows += evaluation.rows
        if rows == 0:
            raise UserError(f"no training target differs from ignore_index={ignore_index}")
        values = difference / (rows * self.permutations)
        if not torch.isfinite(values).all():
            raise UserError(
                "the saliency is not finite, since a network of the joint pair gives infinite or "
                "NaN logits: train it with a lower learning rate"
            )
        settings = self.layer, self.permutations, self.seed
        return Saliency(values, unmasked / rows, *settings, rows, self.score)

    def _evaluation(
        self, teacher: nn.Module, student: nn.Module, batch: PairedBatch, ignore_index: int
    ) -> PermutedTeacher:
        device = device_of(teacher)
        inputs, target = to_device(batch["teacher"], device), batch["target"].to(device)
        logits = student(to_device(batch["student"], device))
        return PermutedTeacher(
            teacher, self.layer, inputs, logits, target, ignore_index, self.score
        )

    def _orders(self, batch_number: int, size: int) -> Iterator[Tensor]:
        for m in range(self.permutations):
            yield torch.randperm(size, generator=generator(self.seed, "saliency", m, batch_number))
