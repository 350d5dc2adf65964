"""The frozen teachers of a stack: each trained network with each of its masks once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from ntdh_bench.batch import Inputs, PairedBatch, Split
from ntdh_bench.contract import StackMember
from ntdh_bench.stacks.data import of_members, together
from ntdh_bench.stacks.networks import NetworkStack

_LIMIT = 2 * 2**30  # bytes of one split's outputs that are kept


class TeacherStack:
    """Outputs of T frozen teachers, looked up where their inputs never change.

    It is no ``nn.Module``, as the frozen teacher of a run alone is none.

    Args:
        members: of the stack, with their frozen teachers loaded.
        layers: layers of the teachers that are given beside the logits.

    Attributes:
        of_member: int64 ``(K,)``, the teacher of each member.
    """

    def __init__(self, members: Sequence[StackMember], layers: Sequence[str]) -> None:
        keys = [(m.module.frozen_teacher.hash, m.stream, _mask_key(m)) for m in members]
        kinds = dict(zip(keys, members, strict=True))
        places = {key: place for place, key in enumerate(kinds)}
        self.of_member = torch.tensor([places[key] for key in keys])
        teachers = list(kinds.values())
        self._streams = torch.tensor([teacher.stream for teacher in teachers])
        networks = [teacher.module.frozen_teacher.network for teacher in teachers]
        self._networks = NetworkStack(networks, layers).eval().requires_grad_(False)
        self._tables: dict[str, dict[str, Tensor]] = {}
        self._mask(teachers)

    def _mask(self, teachers: Sequence[StackMember]) -> None:
        for layer in dict.fromkeys(teacher.layer for teacher in teachers if teacher.layer):
            masks = [teacher.keep for teacher in teachers if teacher.layer == layer]
            (width,) = {len(mask) for mask in masks if mask is not None}
            whole = torch.ones(width, dtype=torch.bool)
            rows = [t.keep if t.layer == layer and t.keep is not None else whole for t in teachers]
            self._networks.mask(layer, torch.stack(rows))

    def to(self, device: torch.device) -> None:
        """Move the teachers to ``device``."""
        if self._streams.device != device:
            self._networks.to(device)
            self._streams, self.of_member = self._streams.to(device), self.of_member.to(device)

    def outputs(
        self, batch: PairedBatch, split: Split, streams: Sequence[Any]
    ) -> dict[str, Tensor]:
        """Return ``{"logits": (T, B, C), layer: (T, B, ...)}`` of a batch ``(S, B, ...)``.

        Args:
            batch: of ``split``, on the device to compute on.
            split: the batch's.
            streams: the data modules in use.
        """
        if split not in self._tables:
            fixed = all(stream.cacheable(split) for stream in streams)
            self._tables[split] = self._table(split, streams) if fixed else {}
        table = self._tables[split]
        if not table:
            return self._run(batch["teacher"])
        index = batch["index"][self._streams]
        rows = torch.arange(len(index), device=index.device).unsqueeze(1)
        return {name: values[rows, index] for name, values in table.items()}

    @torch.no_grad()
    def _run(self, inputs: Inputs) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self._networks(of_members(inputs, self._streams))
        return outputs

    def _table(self, split: Split, streams: Sequence[Any]) -> dict[str, Tensor]:
        """Return the outputs ``(T, N, ...)`` of a whole split; nothing if they are too large."""
        size = streams[0].split_size(split)
        parts: list[dict[str, Tensor]] = []
        for batches in zip(*(stream.batches(split) for stream in streams), strict=True):
            there = move_data_to_device(batches, self._streams.device)
            outputs = self._run(together(there)["teacher"])
            if not parts and _bytes_a_sample(outputs) * size > _LIMIT:
                return {}
            parts.append(outputs)
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _bytes_a_sample(outputs: Mapping[str, Tensor]) -> int:
    return sum(values[:, 0].numel() * values.element_size() for values in outputs.values())


def _mask_key(member: StackMember) -> tuple[str | None, bytes]:
    keep = member.keep
    return member.layer, b"" if keep is None else keep.cpu().numpy().tobytes()
