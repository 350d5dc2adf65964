"""The frozen teacher of a distillation run: its networks, their checkpoint, and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch, PairedData, Split
from ntdh_bench.checkpoints import load_network, read_checkpoint, state_hash, write_checkpoint
from ntdh_bench.errors import UserError
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
        layers: layers of the teacher that :meth:`outputs` gives beside the logits.

    Attributes:
        hash: 16 hex digits that identify the weights; empty while there are none.
    """

    def __init__(
        self,
        kind: TeacherKind,
        teacher: Callable[[], nn.Module],
        companion: Callable[[], nn.Module],
        layers: Iterable[str] = (),
    ) -> None:
        self.kind = kind
        self.hash = ""
        self._build = {"teacher": teacher, "companion": companion}
        self._layers = list(layers)
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

    def load(self, path: str | Path) -> None:
        """Load the networks from a checkpoint of TeacherModule or JointModule.

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
        write_checkpoint({"state_dict": state}, path)

    def to(self, device: torch.device) -> None:
        """Move the networks to ``device``."""
        for network in self._networks.values():
            network.to(device)

    def outputs(self, batch: PairedBatch, split: Split, data: PairedData) -> dict[str, Tensor]:
        """Return the teacher's logits and tapped features, from memory where it can.

        Args:
            batch: of ``split``, on the device to compute on.
            split: the batch's.
            data: the data module in use, the same until :meth:`release`.
        """
        if self._outputs is None:
            device = batch["target"].device
            self._outputs = TeacherOutputs(self.network.to(device), self._layers, data, device)
        return self._outputs(batch, split)

    def release(self) -> None:
        """Forget the outputs and take the networks back to the CPU."""
        if self._outputs is not None:
            self._outputs.close()
            self._outputs = None
        self.to(torch.device("cpu"))
