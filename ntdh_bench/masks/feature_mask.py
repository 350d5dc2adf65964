"""Feature mask: Algorithm 1 as a callback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ntdh_bench import __version__
from ntdh_bench.batch import PairedBatch, PairedData
from ntdh_bench.cache import build_once, default_cache_dir, digest, origin
from ntdh_bench.contract import described
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.frozen_teacher import FrozenTeacher
from ntdh_bench.layers import INPUT, LayerMask, find_layer, mask_layer
from ntdh_bench.masks.base import Mask, Removes, keep_mask
from ntdh_bench.masks.nontarget import FeatureScore
from ntdh_bench.masks.permuted import check_maskable, layer_output
from ntdh_bench.masks.saliency import FeatureSaliency, Saliency
from ntdh_bench.networks import device_of, to_device
from ntdh_bench.notices import say
from ntdh_bench.progress import progress_bar
from ntdh_bench.provenance import code_of
from ntdh_bench.ranges import check_at_least, check_choice, check_within
from ntdh_bench.seeding import generator

# Part of the cache's key: to be raised when the algorithm gives other numbers.
_VERSION = 2

# Settings that came after the first checkpoints, as those had them.
_OLDER = {"score": "ncjsd", "draw": 0, "fill": "zero", "saliency": "signed"}

_ALONE = (
    "a feature mask ranks features by Algorithm 1, which needs the jointly trained pair: set "
    "model.teacher to joint (or mask.removes to random)"
)


Fill: TypeAlias = Literal["zero", "rescale", "mean", "retrain"]
SaliencyReading: TypeAlias = Literal["signed", "literal"]


class FeatureMask(Mask):
    """Removes features of the frozen teacher, chosen by Algorithm 1 on the training data.

    ``round(ratio * D)`` of the D features of ``layer`` go, in training, validation and test: they
    become 0, as in the paper, or what ``fill`` says to keep the teacher whole.
    The saliency comes from the jointly trained pair (``model.teacher: joint``), is cached by the
    teacher, the data and the parameters, and is saved with the checkpoint: a resumed or tested run
    keeps its mask.

    Args:
        ratio: part of the features that is removed, in [0, 1].
        removes: ``most_divergent`` (the paper's True mask), ``least_divergent`` (False) or
            ``random``, which needs no saliency.
        layer: a layer of the teacher, whose channels (dim 1) are masked, or ``input``.
        permutations: M of Algorithm 1.
        seed: of permutations and random masks, linked to the run's seed by the command line.
        fill: what stands in place of the removed features. ``zero``; ``rescale``: 0, and the others
            are multiplied by D / (D - removed), as dropout does; ``mean``: the mean of each over
            the training data (and positions), of the unmasked teacher; ``retrain``: 0, and the
            teacher is trained anew on the kept inputs, as the authors do on synthetic data. The
            pipeline does that; only for ``layer: input``.
        cache_dir: folder of the saliency cache; default: ``$NTDH_CACHE`` or the user's cache.
        score: what features are ranked by: ``ncjsd``, or ``mse`` of the logits, as in MFH (Xue et
            al., ICLR 2023; there ratio 0.75 and 10 permutations of the last hidden layer, and what
            is removed becomes its mean over the batch).
        draw: which random mask, from 0: those of one seed are independent of each other.
        saliency: which features count as divergent: ``signed``, those that add to the divergence
            (see :class:`FeatureSaliency`); or ``literal``, as Algorithm 1 is printed.

    As it is printed, the saliency of a feature is the mean NCJSD *without* it, and the mask takes
    the top: the features whose loss makes teacher and student disagree most, against what the text
    says of them. That is the unmasked NCJSD, a constant, minus the signed saliency: exactly the
    reverse order, so that a literal True mask is a signed False mask, ties included. Two things in
    print are open. Step 9 masks the column, the text permutes it: permuted here, as M repetitions
    of a mask would all be one. Over which samples the NCJSD goes: all for training.

    Raises:
        UserError: a value out of range, a ``fill`` of ``retrain`` at a hidden layer, or a
            ``draw`` of a mask that is not random.
    """

    def __init__(
        self,
        ratio: float,
        removes: Removes = "most_divergent",
        layer: str = "hidden1",
        permutations: int = 5,
        seed: int = 0,
        fill: Fill = "zero",
        cache_dir: str | None = None,
        score: FeatureScore = "ncjsd",
        draw: int = 0,
        saliency: SaliencyReading = "signed",
    ) -> None:
        super().__init__(removes, seed)
        check_within("mask.ratio", ratio, 0, 1)
        check_at_least("mask.draw", draw, 0)
        if draw and removes != "random":
            raise UserError(
                f"mask.draw is {draw}, but mask.removes is {removes}, which draws nothing: leave "
                "mask.draw out, or set mask.removes to random"
            )
        self.ratio = ratio
        check_choice("mask.fill", fill, get_args(Fill))
        if fill == "retrain" and layer != INPUT:
            raise UserError(
                f"mask.fill is retrain, but mask.layer is {layer!r}: a teacher can be trained anew "
                f"on kept inputs only (mask.layer: {INPUT})"
            )
        self.layer = layer
        self.fill: Fill = fill
        self.draw = draw
        check_choice("mask.saliency", saliency, get_args(SaliencyReading))
        self.reading: SaliencyReading = saliency
        self.cache_dir = cache_dir
        self.algorithm = FeatureSaliency(layer, permutations, seed, score)
        self.saliency: Saliency | None = None
        #: Whether Algorithm 1 is run although the cache has its result.
        self.anew = False
        #: Where the saliency came from, if it came from the cache.
        self.from_cache: dict[str, str] | None = None
        self.keep: Tensor | None = None
        #: Means of the features, float64 ``(D,)``, where they are filled in.
        self.means: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def check(self, teacher: FrozenTeacher, datamodule: PairedData) -> None:
        """Refuse a teacher that cannot be masked, before it is trained.

        Args:
            teacher: as it will be trained.
            datamodule: after ``setup("fit")``.

        Raises:
            UserError: no such layer, several inputs where the input is masked, or a saliency is
                needed and the teacher is trained alone.
        """
        find_layer(teacher.untrained(), self.layer)
        if self.layer == INPUT:
            check_maskable(next(datamodule.batches("train", batch_size=1))["teacher"])
        if self.removes != "random" and teacher.kind != "joint":
            raise UserError(_ALONE)

    def prepare(self, teacher: FrozenTeacher, datamodule: PairedData) -> None:
        """Choose the features that stay: sets ``keep``, bool ``(D,)``, ``saliency`` and ``means``.

        With ``fill: retrain``, call it with the joint pair before the teacher is trained anew.

        Args:
            teacher: unmasked, on the device to compute on; ``random`` needs no companion.
            datamodule: after ``setup("fit")``.

        Raises:
            UserError: no such layer, or a saliency is needed and there is no companion.
        """
        find_layer(teacher.network, self.layer)
        if self.removes == "random":
            divergence = torch.zeros(_width(teacher.network, self.layer, datamodule))
        else:
            self.saliency = self.find_saliency(teacher, datamodule)
            divergence = self.divergence_of(self.saliency)
        self.keep = self.choose(divergence, self.removes)
        if self.fill == "mean":
            self.means = _means(teacher.network, self.layer, datamodule)

    def share(self, other: FeatureMask) -> None:
        """Choose by what ``other`` found of the same teacher: sets what :meth:`prepare` does."""
        assert other.keep is not None
        self.saliency, self.from_cache, self.means = other.saliency, other.from_cache, other.means
        nothing = torch.zeros(len(other.keep))
        found = nothing if self.saliency is None else self.divergence_of(self.saliency)
        self.keep = self.choose(found, self.removes)

    def divergence_of(self, saliency: Saliency) -> Tensor:
        """Return what features are ranked by, float64 ``(D,)``: the larger, the more divergent."""
        return saliency.values if self.reading == "signed" else -saliency.values

    def choose(self, divergence: Tensor, removes: Removes) -> Tensor:
        """Return which features stay, bool ``(D,)``, for any choice of what to remove."""
        removed = round(self.ratio * len(divergence))  # halves to even
        # The first draw is the only one that there once was.
        stream = generator(self.seed, "feature_mask", *([self.draw] if self.draw else []))
        return keep_mask(divergence, removed, removes, stream)

    def layer_mask(self) -> LayerMask:
        """Return what the mask, once prepared, makes of its layer's features."""
        assert self.keep is not None
        zeroing = LayerMask.zeroing(self.keep)
        if self.fill == "rescale":
            left = max(1, int(self.keep.sum()))
            return zeroing._replace(scale=zeroing.scale * (len(self.keep) / left))
        if self.means is not None:
            return zeroing._replace(shift=self.means.float().masked_fill(self.keep, 0))
        return zeroing

    def find_saliency(self, teacher: FrozenTeacher, datamodule: PairedData) -> Saliency:
        """Compute Algorithm 1 on the training split, or read it from the cache.

        Raises:
            UserError: there is no companion.
        """
        network, companion = teacher.network, teacher.companion
        if companion is None:
            raise UserError(_ALONE)
        algorithm = self.algorithm
        kinds = map(type, [self, datamodule, *network.modules(), *companion.modules()])
        key = {
            "version": _VERSION,
            "ntdh-bench": __version__,
            "third_party": code_of([f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]),
            "teacher": teacher.hash,
            "data": datamodule.fingerprint,
            "batch_size": datamodule.batch_size,
            "layer": self.layer,
            "permutations": algorithm.permutations,
            "seed": self.seed,
            "score": algorithm.score,
        }
        folder = Path(self.cache_dir) if self.cache_dir else default_cache_dir()

        path = folder / "saliency" / f"{digest(key)}.npz"
        built: list[Path] = []

        def build(temporary: Path) -> None:
            built.append(temporary)
            times = algorithm.permutations
            say(f"Algorithm 1: each feature of {self.layer} is permuted {times} times")
            batches = _with_progress(datamodule, "Algorithm 1 (saliency)")
            found = algorithm.compute(network, companion, batches, datamodule.ignore_index)
            found.write(temporary)

        build_once(path, build, self.anew)
        self.from_cache = None if built else origin(path)
        if self.from_cache:
            say(f"Algorithm 1: from the cache, made {self.from_cache['created']}")
        return Saliency.load(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the mask and its saliency as plain values and tensors (Lightning hook)."""
        if self.keep is None:
            return {}
        saliency = None if self.saliency is None else vars(self.saliency).copy()
        state = {"settings": self._settings(), "keep": self.keep, "saliency": saliency}
        return state if self.means is None else {**state, "means": self.means}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the mask of a checkpoint (Lightning hook).

        Raises:
            UserError: the checkpoint's mask has other settings than this one.
        """
        settings = {**_OLDER, **state_dict["settings"]}
        if settings.get("retrain"):
            settings["fill"] = "retrain"
        for name, value in self._settings().items():
            saved = settings[name]
            if saved != value:
                raise UserError(
                    f"the checkpoint was made with mask.{name} {saved}, but this run says {value}: "
                    "leave it as it was, or start a new run without the checkpoint"
                )
        saliency, keep = state_dict["saliency"], state_dict["keep"]
        means = state_dict.get("means")
        sound = isinstance(keep, Tensor) and keep.dtype == torch.bool and keep.ndim == 1
        if self.fill == "mean":
            sound = sound and isinstance(means, Tensor) and means.shape == keep.shape
        if not sound:
            raise FileError(
                "the checkpoint's mask is damaged: give a sound checkpoint, or start a new run"
            )
        self.saliency = None if saliency is None else Saliency.of_checkpoint(saliency)
        self.keep, self.means = keep, means

    def _settings(self) -> dict[str, Any]:
        return {
            "ratio": float(self.ratio),
            "removes": self.removes,
            "layer": self.layer,
            "permutations": self.algorithm.permutations,
            "seed": self.seed,
            "fill": self.fill,
            "score": self.algorithm.score,
            "draw": self.draw,
            "saliency": self.reading,
        }

    @staticmethod
    def check_module(module: LightningModule) -> None:
        """Refuse a module without a teacher that stays as it is.

        Raises:
            UserError: it has none, or one that is trained beside the student.
        """
        found = described(module)
        if found.frozen_teacher is None or found.trains_teacher:
            raise UserError(
                f"FeatureMask masks the teacher of a DistillationModule, not a "
                f"{type(module).__name__}: remove the mask"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules that cannot be masked (Lightning hook)."""
        self.check_module(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the mask in place where it is not yet (Lightning hook)."""
        if self._handle is None:
            self._install(trainer, pl_module)

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the mask off the network (Lightning hook); its choice of features stays."""
        self._remove()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the mask off the network (Lightning hook)."""
        self._remove()

    def _install(self, trainer: Trainer, pl_module: LightningModule) -> None:
        teacher = described(pl_module).frozen_teacher
        assert teacher is not None  # see setup
        teacher.to(pl_module.device)
        if self.keep is None:
            if self.fill == "retrain":
                raise UserError(
                    "mask.fill: retrain needs the mask before the teacher is trained anew: use "
                    "`ntdh-bench fit`, or call FeatureMask.prepare with the joint pair"
                )
            datamodule = cast("PairedData | None", trainer.datamodule)  # type: ignore[attr-defined]
            if datamodule is None:
                raise UserError("FeatureMask needs a data module: pass datamodule= to the Trainer")
            self.prepare(teacher, datamodule)
        mask = LayerMask(*(values.to(pl_module.device) for values in self.layer_mask()))
        self._handle = mask_layer(teacher.network, self.layer, mask)

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


@torch.no_grad()
def _width(teacher: nn.Module, layer: str, datamodule: PairedData) -> int:
    batch = next(iter(datamodule.batches("train")))
    inputs = to_device(batch["teacher"], device_of(teacher))
    return layer_output(teacher, layer, inputs)[1].shape[1]


@torch.no_grad()
def _means(teacher: nn.Module, layer: str, datamodule: PairedData) -> Tensor:
    """Return the mean of each feature over training samples and positions: float64 ``(D,)``."""
    device = device_of(teacher)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in _with_progress(datamodule, f"Means of {layer}"):
        features = layer_output(teacher, layer, to_device(batch["teacher"], device))[1]
        rows = features.movedim(1, -1).flatten(0, -2).cpu()
        total = total + rows.sum(0, dtype=torch.float64)
        count += len(rows)
    return total / count


def _with_progress(datamodule: PairedData, what: str) -> Iterator[PairedBatch]:
    """Yield the training batches, with a progress bar where someone looks at it."""
    size = datamodule.batch_size
    total = -(-datamodule.num_train // size) if size else 1
    with progress_bar(what, total) as update:
        for batch in datamodule.batches("train"):
            yield batch
            update(advance=1)
