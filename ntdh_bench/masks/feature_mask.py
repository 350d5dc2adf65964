"""Feature mask: Algorithm 1 as a callback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

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
from ntdh_bench.layers import INPUT, find_layer, mask_layer
from ntdh_bench.masks.base import Mask, Removes, keep_mask
from ntdh_bench.masks.nontarget import FeatureScore
from ntdh_bench.masks.permuted import check_maskable, layer_output
from ntdh_bench.masks.saliency import FeatureSaliency, Saliency
from ntdh_bench.networks import device_of, to_device
from ntdh_bench.progress import progress_bar
from ntdh_bench.provenance import code_of
from ntdh_bench.ranges import check_at_least, check_within
from ntdh_bench.seeding import generator

# Part of the cache's key: to be raised when the algorithm gives other numbers.
_VERSION = 2

_ALONE = (
    "a feature mask ranks features by Algorithm 1, which needs the jointly trained pair: set "
    "model.teacher to joint (or mask.removes to random)"
)


class FeatureMask(Mask):
    """Zeroes features of the frozen teacher, chosen by Algorithm 1 on the training data.

    ``round(ratio * D)`` of the D features of ``layer`` are zeroed in training, validation and test.
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
        retrain: train the teacher anew on the kept inputs, as the authors do on synthetic data.
            The pipeline does that; only for ``layer: input``.
        cache_dir: folder of the saliency cache; default: ``$NTDH_CACHE`` or the user's cache.
        score: what features are ranked by: ``ncjsd``, or ``mse`` of the logits, as in MFH (Xue et
            al., ICLR 2023; there ratio 0.75 and 10 permutations of the last hidden layer, and what
            is removed becomes its mean over the batch, not 0).
        draw: which random mask, from 0: those of one seed are independent of each other.

    Raises:
        UserError: a value out of range, ``retrain`` at a hidden layer, or a ``draw`` of a mask
            that is not random.
    """

    def __init__(
        self,
        ratio: float,
        removes: Removes = "most_divergent",
        layer: str = "hidden1",
        permutations: int = 5,
        seed: int = 0,
        retrain: bool = False,
        cache_dir: str | None = None,
        score: FeatureScore = "ncjsd",
        draw: int = 0,
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
        if retrain and layer != INPUT:
            raise UserError(
                f"mask.retrain is true, but mask.layer is {layer!r}: a teacher can be trained anew "
                f"on kept inputs only (mask.layer: {INPUT})"
            )
        self.layer = layer
        self.retrain = retrain
        self.draw = draw
        self.cache_dir = cache_dir
        self.algorithm = FeatureSaliency(layer, permutations, seed, score)
        self.saliency: Saliency | None = None
        #: Whether Algorithm 1 is run although the cache has its result.
        self.anew = False
        #: Where the saliency came from, if it came from the cache.
        self.from_cache: dict[str, str] | None = None
        self.keep: Tensor | None = None
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
        """Choose the features that stay: sets ``keep``, bool ``(D,)``, and ``saliency``.

        With ``retrain``, call it with the joint pair before the teacher is trained anew.

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
            divergence = self.saliency.values
        self.keep = self.choose(divergence, self.removes)

    def share(self, other: FeatureMask) -> None:
        """Choose by what ``other`` found of the same teacher: sets what :meth:`prepare` does."""
        assert other.keep is not None
        self.saliency, self.from_cache = other.saliency, other.from_cache
        nothing = torch.zeros(len(other.keep))
        self.keep = self.choose(
            nothing if self.saliency is None else self.saliency.values, self.removes
        )

    def choose(self, divergence: Tensor, removes: Removes) -> Tensor:
        """Return which features stay, bool ``(D,)``, for any choice of what to remove."""
        removed = round(self.ratio * len(divergence))  # halves to even
        # The first draw is the only one that there once was.
        stream = generator(self.seed, "feature_mask", *([self.draw] if self.draw else []))
        return keep_mask(divergence, removed, removes, stream)

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
            batches = _with_progress(datamodule)
            found = algorithm.compute(network, companion, batches, datamodule.ignore_index)
            found.write(temporary)

        build_once(path, build, self.anew)
        self.from_cache = None if built else origin(path)
        return Saliency.load(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the mask and its saliency as plain values and tensors (Lightning hook)."""
        if self.keep is None:
            return {}
        saliency = None if self.saliency is None else vars(self.saliency).copy()
        return {"settings": self._settings(), "keep": self.keep, "saliency": saliency}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the mask of a checkpoint (Lightning hook).

        Raises:
            UserError: the checkpoint's mask has other settings than this one.
        """
        settings = {"score": "ncjsd", "draw": 0, **state_dict["settings"]}  # as older ones are
        for name, value in self._settings().items():
            saved = settings[name]
            if saved != value:
                raise UserError(
                    f"the checkpoint was made with mask.{name} {saved}, but this run says {value}: "
                    "leave it as it was, or start a new run without the checkpoint"
                )
        saliency, keep = state_dict["saliency"], state_dict["keep"]
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.ndim != 1:
            raise FileError(
                "the checkpoint's mask is damaged: give a sound checkpoint, or start a new run"
            )
        self.saliency = None if saliency is None else Saliency.of_checkpoint(saliency)
        self.keep = keep

    def _settings(self) -> dict[str, Any]:
        return {
            "ratio": float(self.ratio),
            "removes": self.removes,
            "layer": self.layer,
            "permutations": self.algorithm.permutations,
            "seed": self.seed,
            "retrain": self.retrain,
            "score": self.algorithm.score,
            "draw": self.draw,
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
            if self.retrain:
                raise UserError(
                    "mask.retrain needs the mask before the teacher is trained anew: use "
                    "`ntdh-bench fit`, or call FeatureMask.prepare with the joint pair"
                )
            datamodule = cast("PairedData | None", trainer.datamodule)  # type: ignore[attr-defined]
            if datamodule is None:
                raise UserError("FeatureMask needs a data module: pass datamodule= to the Trainer")
            self.prepare(teacher, datamodule)
        assert self.keep is not None
        self._handle = mask_layer(teacher.network, self.layer, self.keep.to(pl_module.device))

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


@torch.no_grad()
def _width(teacher: nn.Module, layer: str, datamodule: PairedData) -> int:
    batch = next(iter(datamodule.batches("train")))
    inputs = to_device(batch["teacher"], device_of(teacher))
    return layer_output(teacher, layer, inputs)[1].shape[1]


def _with_progress(datamodule: PairedData) -> Iterator[PairedBatch]:
    """Yield the training batches, with a progress bar where someone looks at it."""
    size = datamodule.batch_size
    total = -(-datamodule.num_train // size) if size else 1
    with progress_bar("Algorithm 1 (saliency)", total) as update:
        for batch in datamodule.batches("train"):
            yield batch
            update(advance=1)
