"""The frozen teacher of a distillation run: its networks, their checkpoint, and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch, PairedData, Split
from ntdh_bench.checkpoints import load_network, read_checkpoint, state_hash, write_checkpoint
from ntdh_bench.errors import UserError
from ntdh_bench.interventions import Intervention, Source, SplitRows
from ntdh_bench.layers import LOGITS
from ntdh_bench.teacher_outputs import TeacherOutputs

TeacherKind: TypeAlias = Literal["joint", "independent"]


class FrozenTeacher:
    """A trained teacher (f_a) and, of a joint pair, its companion (f_b of Algorithm 1).

    It is no ``nn.Module``: Lightning neither trains, saves, moves nor synchronises the networks,
    and they are in eval mode whatever the Trainer does.

    Args:
        kind: ``joint`` is f_a of Algorithm 1, ``independent`` is trained alone.
        teacher: builds the untrained teacher.
        companion: builds the untrained companion.
        layers: layers of the teacher that :meth:`outputs` gives beside the logits, of training
            data.
        intervention: what changes its logits.
        reference: builds the student that an intervention may ask for.
        seed: of the run, which the intervention draws by.

    Attributes:
        hash: 16 hex digits that identify the weights; empty while there are none.
        reference: the student trained without KD, for an intervention that asks for it.
        evaluated_layers: those that :meth:`outputs` gives of validation and test data instead.
    """

    def __init__(
        self,
        kind: TeacherKind,
        teacher: Callable[[], nn.Module],
        companion: Callable[[], nn.Module],
        layers: Iterable[str] = (),
        intervention: Intervention | None = None,
        reference: Callable[[], nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.hash = ""
        self.intervention = intervention
        self.reference: nn.Module | None = None
        self._build_reference = reference
        self._seed = seed
        self._build = {"teacher": teacher, "companion": companion}
        self._layers = list(layers)
        self.evaluated_layers: Sequence[str] = ()
        self._networks: dict[str, nn.Module] = {}
        self._outputs: TeacherOutputs | None = None

    @property
    def network(self) -> nn.Module:
        """The teacher itself.

        Raises:
            UserError: none was loaded.
        """
        if "teacher" not in self._networks:
            raise UserError(
                "the DistillationModule has no teacher: `ntdh-bench fit` trains it, from Python "
                "call frozen_teacher.load(checkpoint) first"
            )
        return self._networks["teacher"]

    @property
    def companion(self) -> nn.Module | None:
        """f_b of Algorithm 1; ``None`` with an independent teacher."""
        return self._networks.get("companion")

    def untrained(self) -> nn.Module:
        """Return a new teacher with its initial weights."""
        return self._build["teacher"]()

    def load(self, path: str | Path, with_reference: bool = True) -> None:
        """Load the networks from a checkpoint of TeacherModule or JointModule, or of :meth:`save`.

        Args:
            path: of the file.
            with_reference: whether an intervention that asks for the student trained without KD
                takes that of the file, if there is one: it is that of the run that saved it.

        Raises:
            UserError: the file is damaged, belongs to another network, or holds no joint pair
                although the kind is ``joint``.
        """
        weights = read_checkpoint(path)["state_dict"]
        joint = any(name.startswith("companion.") for name in weights)
        if self.kind == "joint" and not joint:
            raise UserError(
                f"{path} holds a teacher trained alone, but model.teacher is joint: give a "
                "checkpoint of JointModule, or set model.teacher to independent"
            )
        names = ["teacher", "companion"] if self.kind == "joint" else ["teacher"]
        networks = {name: self._build[name]() for name in names}
        for name, network in networks.items():
            load_network(network, weights, name if joint else "network", str(path))
        self.hold(**networks)
        kept = any(name.startswith("reference.") for name in weights)
        if kept and with_reference and self.needs_reference:
            self._refer_to(weights, "reference", str(path))

    def hold(self, teacher: nn.Module, companion: nn.Module | None = None) -> None:
        """Freeze trained networks and keep them."""
        self.release()
        networks = {"teacher": teacher, **({} if companion is None else {"companion": companion})}
        self._networks = {
            name: network.eval().requires_grad_(False) for name, network in networks.items()
        }
        self.hash = state_hash(self._networks)

    def replace(self, path: str | Path) -> None:
        """Replace the teacher by one trained alone (a masked one, say), keeping its companion.

        Raises:
            UserError: the file is damaged or belongs to another network.
        """
        load_network(self.network, read_checkpoint(path)["state_dict"], "network", str(path))
        self.hold(self.network, self.companion)

    def save(self, path: Path) -> None:
        """Write the networks as a checkpoint that :meth:`load` reads, whole."""
        state = {
            f"{'network' if self.companion is None else name}.{key}": value.cpu()
            for name, network in self._networks.items()
            for key, value in network.state_dict().items()
        }
        if self.reference is not None:
            kept = self.reference.state_dict()
            state |= {f"reference.{key}": value.cpu() for key, value in kept.items()}
        write_checkpoint({"state_dict": state}, path)

    def to(self, device: torch.device) -> None:
        """Move the networks to ``device``."""
        for network in (*self._networks.values(), *filter(None, [self.reference])):
            network.to(device)

    def outputs(self, batch: PairedBatch, split: Split, data: PairedData) -> dict[str, Tensor]:
        """Return the teacher's logits and tapped features, from memory where it can.

        Args:
            batch: of ``split``, on the device to compute on.
            split: the batch's.
            data: the data module in use, the same until :meth:`release`.

        Raises:
            UserError: see :meth:`bind`.
        """
        if self._outputs is None:
            device = batch["target"].device
            layers = self._layers, self.evaluated_layers
            self._outputs = TeacherOutputs(self.network.to(device), *layers, data, device)
            if self.intervention is not None:
                self.bind(partial(self._rows, self._outputs, data, device), data)
        found = self._outputs(batch, split)
        if self.intervention is None:
            return found
        return {**found, LOGITS: self.intervention(found[LOGITS], batch, split)}

    @staticmethod
    def _rows(
        outputs: TeacherOutputs, data: PairedData, device: torch.device, split: Split
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in data.batches(split):
            there = move_data_to_device(batch, device)
            yield outputs(there, split)[LOGITS], there["target"]

    def check(self, data: PairedData) -> None:
        """Refuse data on which the intervention is not defined, before the teacher is trained.

        Raises:
            UserError: it is not.
        """
        if self.intervention is not None:
            self.intervention.check(data)

    def bind(self, rows: SplitRows, data: PairedData) -> None:
        """Tell the intervention of the run.

        Args:
            rows: all of a split in batches: the untouched logits, and the targets.
            data: the data module in use.

        Raises:
            UserError: it is not defined on such data, or needs the student trained without KD, and
                there is none.
        """
        assert self.intervention is not None
        self.check(data)
        if self.needs_reference and self.reference is None:
            raise UserError(
                f"{type(self.intervention).__name__} needs the student trained without KD: "
                "`ntdh-bench fit` trains it, from Python call frozen_teacher.refer_to first"
            )
        self.intervention.bind(Source(self._seed, data.ignore_index, rows, self.reference))

    @property
    def needs_reference(self) -> bool:
        """Whether an intervention asks for the student trained without KD."""
        return self.intervention is not None and self.intervention.needs_reference

    def refer_to(self, path: str | Path) -> None:
        """Load the student trained without KD from a checkpoint of TeacherModule.

        Raises:
            UserError: the file is damaged or belongs to another network.
        """
        self._refer_to(read_checkpoint(path)["state_dict"], "network", str(path))

    def _refer_to(self, weights: Mapping[str, Tensor], name: str, path: str) -> None:
        assert self._build_reference is not None
        network = self._build_reference()
        load_network(network, weights, name, path)
        self.reference = network.eval().requires_grad_(False)

    def release(self) -> None:
        """Forget the outputs and take the networks back to the CPU."""
        if self._outputs is not None:
            self._outputs.close()
            self._outputs = None
        self.to(torch.device("cpu"))
