"""The paper's synthetic data: how far two modalities share decisive features is a parameter."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_at_least, check_within
from ntdh_bench.seeding import generator

from .paired import PairedDataModule, PairedDataset, TensorPairs
from .scaling import STANDARDISED

_MAX_VALUES, _MAX_CLASSES = 1 << 29, 10_000


class SyntheticDataModule(PairedDataModule):
    """Two views of one Gaussian-cluster problem, each seeing a block of its decisive features.

    All ``n_features`` columns of the problem (``sklearn.datasets.make_classification``) carry
    information. The student's modality keeps ``decisive`` of them from column ``first``, the
    teacher's keeps as many, shifted by ``round(gap * decisive)``; every other column is replaced
    by N(0, 1) noise. So the blocks share ``decisive - round(gap * decisive)`` columns: all at
    gap 0, none at gap 1. Both inputs are float32 ``(B, n_features)``.

    Columns are standardised by the mean and deviation of the *training* samples, so that nothing
    of the test samples leaks into training. With the paper's 6,000 of 10,000 samples this differs
    from statistics of all samples by the sampling error of a mean (about 1 % of a deviation).

    Source: the paper, Sec. IV-A (gap is its γ); split and sizes as in the authors' experiment.

    Args:
        gap: modality gap in [0, 1].
        n_samples: number of samples.
        n_features: columns of the problem, and width of both inputs.
        decisive: informative columns that each modality sees.
        first: first decisive column of the student.
        n_classes: number of classes.
        class_sep: distance of the clusters (``make_classification``).
        test_fraction: share of the samples in the test split, in (0, 1).
        val_fraction: share of *all* samples in the validation split; 0 means there is none.
        data_seed: of the problem, the splits and the noise columns; fixed over runs.
        steps_per_epoch: full-batch steps in an epoch, ``None`` for 1; more than 1 needs
            ``batch_size`` null.
        batch_size: samples per step, or None for full-batch training.
        shared: ``seed``, ``num_workers`` and ``unimodal`` of :class:`.paired.PairedDataModule`.

    Raises:
        UserError: arguments are out of range or do not go together.
    """

    name = "synthetic"
    source = "simulated"
    normalisation = STANDARDISED

    def __init__(
        self,
        gap: float = 0.0,
        n_samples: int = 10_000,
        n_features: int = 50,
        decisive: int = 20,
        first: int = 0,
        n_classes: int = 4,
        class_sep: float = 1.0,
        test_fraction: float = 0.4,
        val_fraction: float = 0.0,
        data_seed: int = 42,
        steps_per_epoch: int | None = 1,
        batch_size: int | None = None,
        **shared: Any,
    ) -> None:
        steps = 1 if steps_per_epoch is None else steps_per_epoch
        super().__init__(batch_size, **shared)
        check_within("data.gap", gap, 0, 1)
        check_at_least("data.n_samples", n_samples, 1)
        check_at_least("data.decisive", decisive, 1)
        check_at_least("data.first", first, 0)
        check_at_least("data.n_classes", n_classes, 2)
        check_within("data.test_fraction", test_fraction, 0, 1)
        check_within("data.val_fraction", val_fraction, 0, 1)
        check_within("data.data_seed", data_seed, 0, 2**32 - 1)
        check_at_least("data.steps_per_epoch", steps, 1)
        if steps > 1 and batch_size is not None:
            raise UserError(
                f"data.steps_per_epoch is {steps}, which repeats the full batch, but "
                f"data.batch_size is {batch_size}: set one of them to null or 1"
            )
        self.repeats = steps
        self.gap = gap
        self.shift = round(gap * decisive)
        self.n_samples = n_samples
        self.n_features = n_features
        self.decisive = decisive
        self.first = first
        self.num_classes = n_classes
        self.class_sep = class_sep
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction
        self.data_seed = data_seed
        self._check_columns()
        self._check_fractions()

    def _check_columns(self) -> None:
        needed = self.first + self.shift + self.decisive
        if needed > self.n_features:
            raise UserError(
                f"data.n_features is {self.n_features}, but first {self.first} + gap shift "
                f"{self.shift} + decisive {self.decisive} need {needed} columns: raise n_features "
                "or lower the others"
            )
        values = self.n_samples * self.n_features
        if values > _MAX_VALUES or self.num_classes > _MAX_CLASSES:
            raise UserError(
                f"data.n_samples * data.n_features is {values} and data.n_classes is "
                f"{self.num_classes}, expected at most {_MAX_VALUES} and {_MAX_CLASSES}: all is "
                "held in memory"
            )
        if 2**self.n_features < self.num_classes:
            raise UserError(
                f"data.n_classes is {self.num_classes}, more than the {2**self.n_features} "
                f"corners that {self.n_features} features have: lower it"
            )

    def _check_fractions(self) -> None:
        train = 1 - self.test_fraction - self.val_fraction
        smallest = min(train, self.test_fraction, self.val_fraction or 1)
        if smallest * self.n_samples < 1:
            raise UserError(
                f"data.test_fraction {self.test_fraction} and data.val_fraction "
                f"{self.val_fraction} leave a split of {self.n_samples} samples empty: both must "
                "be positive (val_fraction may be 0) and sum to less than 1"
            )

    def load(self) -> dict[Split, PairedDataset]:
        """Generate the problem and return its splits."""
        from sklearn.datasets import make_classification

        features, labels = make_classification(
            self.n_samples,
            n_features=self.n_features,
            n_informative=self.n_features,
            n_redundant=0,
            n_classes=self.num_classes,
            n_clusters_per_class=1,
            class_sep=self.class_sep,
            random_state=self.data_seed,
        )
        rows = self._split_rows()
        training = features[rows["train"]]
        spread = training.std(axis=0)
        scaled = torch.from_numpy((features - training.mean(axis=0)) / np.where(spread, spread, 1))
        teacher = self._hide(scaled.float(), self.first + self.shift, "teacher")
        student = self._hide(scaled.float(), self.first, "student")
        target = torch.from_numpy(labels).long()
        return {
            split: TensorPairs(teacher[index], student[index], target[index])
            for split, index in rows.items()
        }

    def _split_rows(self) -> dict[Split, Tensor]:
        """Return the samples of each split; the test split does not depend on the validation's."""
        from sklearn.model_selection import train_test_split

        rest, test = train_test_split(
            np.arange(self.n_samples), test_size=self.test_fraction, random_state=self.data_seed
        )
        rows: dict[Split, Any] = {"train": rest}
        if self.val_fraction:
            size = max(1, round(self.val_fraction * self.n_samples))
            rows["train"], rows["val"] = train_test_split(
                rest, test_size=size, random_state=self.data_seed
            )
        return {split: torch.from_numpy(part) for split, part in {**rows, "test": test}.items()}

    def _hide(self, features: Tensor, first: int, modality: str) -> Tensor:
        """Return (N, n_features) noise with the decisive columns from ``first`` put in."""
        noise = generator(self.data_seed, f"synthetic/noise/{modality}")
        view = torch.randn(features.shape, generator=noise)
        view[:, first : first + self.decisive] = features[:, first : first + self.decisive]
        return view

    def identity(self) -> dict[str, Any]:
        """Return a digest of the generated arrays: versions of scikit-learn may differ."""
        content = hashlib.sha256()
        for split, dataset in self.splits.items():
            batch = dataset.whole(0)
            content.update(split.encode())
            for tensor in (batch["teacher"], batch["student"], batch["target"]):
                assert isinstance(tensor, Tensor)
                content.update(tensor.numpy().tobytes())
        return {"gap": self.gap, "data_seed": self.data_seed, "content": content.hexdigest()}
