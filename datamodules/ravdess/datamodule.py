"""RAVDESS: speech teaches faces, eight emotions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.datasets import is_simulated
from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import visible
from ntdh_bench.ranges import check_at_least, check_choice, check_within

from ..files import FilePairs
from ..paired import PairedDataset, TensorPairs
from ..scaling import STANDARDISED, standardised
from .clips import NORMALISATION, ClipPairs
from .features import FeatureTable, read_features
from .layout import FEATURES, dataset_folder
from .names import EMOTIONS, ClipName
from .settings import DEFAULTS, Backend, Preparation
from .simulate import write_simulated
from .splits import ACTOR_PARTS, actor_split, random_split
from .store import Store, StoreKind, prepared

_WHAT: dict[StoreKind, str] = {
    "audio": "speech files (Audio_Speech_Actors_01-24, 03-01-*.wav)",
    "speech": "speech files (Audio_Speech_Actors_01-24, 03-01-*.wav)",
    "video": "videos (Video_Speech_Actor_*, 01-01-*.mp4 or 02-01-*.mp4)",
    "tracking": "OpenFace tables (FacialTracking_Actors_01-24, 01-01-*.csv)",
}


class _Pairs(NamedTuple):
    """Two stores of the same clips; ``rows`` (N, 2) says where clip i is in each.

    A store is None if its modality is not needed.
    """

    names: list[ClipName]
    stores: tuple[Store | None, Store | None]
    rows: Tensor


class RAVDESSDataModule(FilePairs):
    """RAVDESS: what is said (teacher) and the face that says it (student), eight emotions.

    With ``view: clips`` the teacher's input is 40 MFCCs of 256 frames, float32 (B, 1, 40, 256),
    (x + 10.59) / 85.66 as in the authors' experiment, and the student's one video frame,
    (B, 3, ``image_height``, ``image_width``), with ImageNet's mean and deviation taken out. Both
    come from stores that are prepared from the published files once (``ntdh-bench data prepare
    ravdess``, or by the first run).

    With ``view: features`` both are one vector a clip, standardised over the training split: those
    of a ``.npz`` (``features``, else the only one in the folder ``features``), else action units
    pooled from the published OpenFace tables (35), paired with functionals of the speech (160).

    Source: Livingstone and Russo, PLoS ONE 2018; OpenFace tables: "RAVDESS Facial Landmark
    Tracking" of the same laboratory. Splits, sampling rate and frames are not in the paper.

    Args:
        view: ``clips`` or ``features``.
        split: ``actor`` (no actor in two parts, ``splits.yaml``) or ``random`` (stratified over
            emotions: 70 % training, 10 % validation, 20 % test; known speakers).
        features: a ``.npz`` of paired features, see :func:`.features.read_features`.
        songs: use the sung clips as well.
        frames: video frames stored a clip; with more than one, training draws one in each epoch.
        image_height: of the stored frames, in pixels.
        image_width: likewise.
        backend: what computes MFCCs: ``librosa``, or ``torchaudio`` (on the GPU if there is one).
        tolerance: damaged, misnamed or unpaired files that may be skipped.
        spec_augment: hide bands of the MFCCs in training; the teacher is then run in every epoch.
        image_augment: mirror and change contrast and brightness of training images.
        batch_size: samples per step; None for full-batch training.
        jobs: threads that prepare the stores; default one per core.
        simulated_clips: clips an actor of the simulated source, 1 to 60.
        shared: of :class:`.files.FilePairs`; ``root`` may be the folder ``ravdess`` itself.

    Raises:
        UserError: an argument is out of range; at ``setup``, files are missing or broken.
    """

    name = "ravdess"
    num_classes = len(EMOTIONS)

    def __init__(
        self,
        view: Literal["clips", "features"] = "clips",
        split: Literal["actor", "random"] = "actor",
        features: str | None = None,
        songs: bool = DEFAULTS.songs,
        frames: int = DEFAULTS.frames,
        image_height: int = DEFAULTS.image_height,
        image_width: int = DEFAULTS.image_width,
        backend: Backend = DEFAULTS.backend,
        tolerance: int = 0,
        spec_augment: bool = False,
        image_augment: bool = False,
        batch_size: int | None = 64,
        jobs: int | None = None,
        simulated_clips: int = 20,
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        check_choice("data.view", view, ("clips", "features"))
        check_choice("data.split", split, ("actor", "random"))
        check_at_least("data.tolerance", tolerance, 0)
        check_within("data.simulated_clips", simulated_clips, 1, 60)
        if features is not None and (view != "features" or self.source != "real"):
            raise UserError(
                f"data.features {features} needs data.view features and data.source real"
            )
        self.view = view
        self.normalisation = NORMALISATION if view == "clips" else STANDARDISED
        self.split = split
        self.features = features
        self.preparation = Preparation(backend, songs, frames, image_height, image_width)
        self.preparation.check("data.", jobs)
        self.tolerance = tolerance
        self.augment = {"spec_augment": spec_augment, "image_augment": image_augment}
        self.jobs = jobs
        self.simulated_clips = simulated_clips
        self._content: list[str] = []

    def load(self) -> dict[Split, PairedDataset]:
        """Prepare the stores or read the features, and split them."""
        if self.features is not None:
            return self._feature_splits(self._read(Path(self.features).expanduser()))
        folder = dataset_folder(self.locate())
        if self.view == "clips":
            return self._clip_splits(self._paired(folder, "audio", "video"))
        return self._feature_splits(self._feature_table(folder))

    def folders(self, root: Path) -> list[Path]:
        """Return the folder of the data set."""
        return [dataset_folder(root)]

    def simulation(self) -> tuple[dict[str, Any], Callable[..., None]]:
        """Return the number of simulated clips an actor, and what writes them."""
        clips = self.simulated_clips
        return {"clips": clips}, partial(write_simulated, clips=clips)

    def _paired(self, folder: Path, teacher: StoreKind, student: StoreKind) -> _Pairs:
        """Return the stores of two kinds of file and the clips that are in both.

        Of a modality that is not needed nothing is read.
        """
        first = self._store(folder, teacher) if self.needs("teacher") else None
        second = self._store(folder, student) if self.needs("student") else None
        stores = [store for store in (first, second) if store is not None]
        alone = _alone(first, second, student) + _alone(second, first, teacher)
        self._check_faults(folder, [fault for store in stores for fault in store.faults] + alone)
        places = [
            {clip.key: row for row, clip in enumerate(store.clips)} if store else None
            for store in (first, second)
        ]
        shared = sorted(set.intersection(*(set(place) for place in places if place is not None)))
        if not shared:
            raise UserError(f"{folder}: no clip has both {_WHAT[teacher]} and {_WHAT[student]}")
        self._content = [store.digest for store in stores]
        by_key = {clip.key: clip for clip in stores[0].clips}
        rows = torch.tensor([[place[key] if place else 0 for place in places] for key in shared])
        return _Pairs([by_key[key] for key in shared], (first, second), rows)

    def _store(self, folder: Path, kind: StoreKind) -> Store:
        return prepared(folder, kind, self.cache_dir, self.preparation, self.jobs)

    def _check_faults(self, folder: Path, faults: Sequence[str]) -> None:
        if len(faults) <= self.tolerance:
            return
        raise UserError(
            f"{folder}: {len(faults)} files are damaged, misnamed or unpaired, more than "
            f"data.tolerance {self.tolerance}, such as {faults[0]}; see `ntdh-bench data verify "
            "ravdess`, mend or remove them, or raise data.tolerance to skip them"
        )

    def _clip_splits(self, pairs: _Pairs) -> dict[Split, PairedDataset]:
        target = _targets(pairs.names)
        audio, video = pairs.stores
        return {
            split: ClipPairs(
                audio,
                video,
                pairs.rows[index],
                target[index],
                self.seed,
                training=split == "train",
                **(self.augment if split == "train" else {}),
            )
            for split, index in self._rows(pairs.names, torch.arange(len(target))).items()
        }

    def _feature_table(self, folder: Path) -> FeatureTable:
        """Return the features of the only ``.npz`` there, else those of the published tables."""
        found = visible(folder / FEATURES, "*.npz")
        if len(found) > 1:
            raise UserError(
                f"{folder / FEATURES}: {len(found)} .npz files; name one with --data.features"
            )
        if found:
            return self._read(found[0])
        pairs = self._paired(folder, "speech", "tracking")
        audio, face = (
            np.ascontiguousarray(store.values[rows]) if store else np.empty((len(rows), 0), "f4")
            for store, rows in zip(pairs.stores, pairs.rows.numpy().T, strict=True)
        )
        return FeatureTable(tuple(pairs.names), audio, face)

    def _read(self, path: Path) -> FeatureTable:
        if is_simulated(path.parent, path.parent):
            self.source = "simulated"
        return read_features(path)

    def _feature_splits(self, table: FeatureTable) -> dict[Split, PairedDataset]:
        rows = self._rows(table.names, table.copies)
        self._content = [table.digest]
        audio = standardised(table.audio, rows["train"])
        face = standardised(table.face, rows["train"])
        target = _targets(table.names)
        return {
            split: TensorPairs(audio[index], face[index], target[index])
            for split, index in rows.items()
        }

    def _rows(self, names: Sequence[ClipName], copies: Tensor) -> dict[Split, Tensor]:
        if self.split == "actor":
            return actor_split(names)
        return random_split(_targets(names), copies, self.data_seed)

    def identity(self) -> dict[str, Any]:
        """Return digests of what is read, and parameters; the seed counts if anything is drawn."""
        drawn = self.view == "clips" and (any(self.augment.values()) or self.preparation.frames > 1)
        return {
            "content": self._content,
            "view": self.view,
            "split": self.split,
            "actors": ACTOR_PARTS if self.split == "actor" else None,
            "augment": self.augment if self.view == "clips" else None,
            "data_seed": self.data_seed,
            "seed": self.seed if drawn else None,
        }


def _alone(store: Store | None, partner: Store | None, kind: StoreKind) -> list[str]:
    """Name the clips without a partner of ``kind``; one that is broken is named as such already."""
    if store is None or partner is None:
        return []
    there = {clip.key for clip in (*partner.clips, *partner.broken)}
    return [
        f"{clip}: no partner among the {_WHAT[kind]}"
        for clip in store.clips
        if clip.key not in there
    ]


def _targets(names: Sequence[ClipName]) -> Tensor:
    return torch.tensor([name.target for name in names])
