"""The frozen teachers of a stack: each trained network with each of its masks once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from ntdh_bench.batch import PairedBatch, Split, tensors_of
from ntdh_bench.contract import StackMember
from ntdh_bench.interventions import Intervention
from ntdh_bench.layers import LOGITS, LayerMask
from ntdh_bench.stacks.data import of_members, one_of, together
from ntdh_bench.stacks.networks import NetworkStack

_LIMIT = 2 * 2**30  # bytes of one split's outputs that are kept
_AT_ONCE = 2**28  # bytes of inputs that a GPU is given at once, for tables of outputs


class TeacherStack:
    """Outputs of T frozen teachers, looked up where their inputs never change.

    A network with a mask is run once, whatever interventions on its output there are. Where inputs
    are new in every epoch, a GPU runs all of an epoch at once, as launches cost it more than rows.

    It is no ``nn.Module``, as the frozen teacher of a run alone is none.

    Args:
        members: of the stack, with their frozen teachers loaded.
        layers: layers of the teachers that are given beside the logits, of training data.
        evaluated_layers: those of validation and test data.

    Attributes:
        of_member: int64 ``(K,)``, the teacher of each member.
    """

    def __init__(
        self,
        members: Sequence[StackMember],
        layers: Sequence[str],
        evaluated_layers: Sequence[str] = (),
    ) -> None:
        self.of_member, teachers = _each_once(members, _teacher_key)
        self._network_of, masked = _each_once(teachers, _network_key)
        self._streams = torch.tensor([teacher.stream for teacher in masked])
        networks = [teacher.module.frozen_teacher.network for teacher in masked]
        self._layers = {LOGITS, *layers}
        self._evaluated_layers = {LOGITS, *evaluated_layers}
        tapped = NetworkStack(networks, self._layers | self._evaluated_layers)
        self._networks = tapped.eval().requires_grad_(False)
        self._mask(masked)
        self._teachers = teachers
        #: whether there is an intervention on the output of any
        self.intervened = any(t.module.frozen_teacher.intervention for t in teachers)
        self._bound = False
        self._epoch = -1
        # Of splits: what teachers say, and as interventions change it. Empty: there is no room.
        self._tables: dict[str, dict[str, Tensor]] = {}
        self._changed: dict[str, dict[str, Tensor]] = {}

    def _mask(self, teachers: Sequence[StackMember]) -> None:
        for layer in dict.fromkeys(teacher.layer for teacher in teachers if teacher.layer):
            here = [t.mask if t.layer == layer else None for t in teachers]
            (width,) = {len(mask.scale) for mask in here if mask is not None}
            whole = LayerMask.zeroing(torch.ones(width, dtype=torch.bool))
            parts = zip(*(mask or whole for mask in here), strict=True)
            self._networks.mask(layer, LayerMask(*map(torch.stack, parts)))

    def to(self, device: torch.device) -> None:
        """Move the teachers to ``device``."""
        if self._streams.device != device:
            self._networks.to(device)
            self._streams, self.of_member = self._streams.to(device), self.of_member.to(device)
            self._network_of = self._network_of.to(device)
            for teacher in self._teachers:
                teacher.module.frozen_teacher.to(device)

    def begin(self, epoch: int, streams: Sequence[Any]) -> None:
        """Run the teachers over the training data of an epoch, where that pays and there is room.

        Outputs are kept where those of the last epoch were, as a graph may have been recorded that
        looks them up.
        """
        if epoch == self._epoch or not _launches_cost(self._streams.device):
            return
        self._epoch = epoch
        if _is_due(self._tables, _all_fixed("train", streams)):
            _keep(self._tables, self._table("train", streams, epoch))
        if self.intervened and _is_due(self._changed, _both_fixed("train", streams)):
            _keep(self._changed, self._changed_table("train", streams, epoch))

    @property
    def varies(self) -> bool:
        """Whether what is given of a batch of training data is more than looked up."""
        return self.intervened and not self._changed.get("train")

    def outputs(
        self, batch: PairedBatch, split: Split, streams: Sequence[Any]
    ) -> dict[str, Tensor]:
        """Return ``{"logits": (T, B, C), layer: (T, B, ...)}`` of a batch ``(S, B, ...)``.

        Args:
            batch: of ``split``, on the device to compute on.
            split: the batch's.
            streams: the data modules in use.
        """
        found = self._untouched(batch, split, streams)
        if not self.intervened:
            return found
        logits = self._intervene(found[LOGITS], batch, split, streams)
        return {**{n: v[self._network_of] for n, v in found.items() if n != LOGITS}, LOGITS: logits}

    def _untouched(
        self, batch: PairedBatch, split: Split, streams: Sequence[Any]
    ) -> dict[str, Tensor]:
        if split not in self._tables:
            fixed = _all_fixed(split, streams)
            self._tables[split] = self._table(split, streams) if fixed else {}
        table = self._tables[split]
        if not table:
            return self._run(batch, split)
        return _looked_up(table, batch["index"][self._streams])

    def _intervene(
        self, logits: Tensor, batch: PairedBatch, split: Split, streams: Sequence[Any]
    ) -> Tensor:
        """Return the logits ``(T, B, C)`` as changed, looked up where nothing varies."""
        self._bind(streams)
        if split not in self._changed:
            fixed = _both_fixed(split, streams)
            self._changed[split] = self._changed_table(split, streams) if fixed else {}
        table, stream_of = self._changed[split], self._streams[self._network_of]
        if not table:
            return self._change_all(logits, batch, split)
        return _looked_up(table, batch["index"][stream_of])[LOGITS]

    def __len__(self) -> int:
        """Return T."""
        return len(self._teachers)

    def _change_all(self, logits: Tensor, batch: PairedBatch, split: Split) -> Tensor:
        changed = [self._change(number, logits, batch, split) for number in range(len(self))]
        return torch.stack(changed)

    def _change(self, number: int, logits: Tensor, batch: PairedBatch, split: Split) -> Tensor:
        """Return what a teacher says of a batch ``(S, B, ...)``, ``(B, C)``."""
        teacher, own = self._teachers[number], logits[self._network_of[number]]
        intervention = teacher.module.frozen_teacher.intervention
        if intervention is None:
            return own
        return cast(Tensor, intervention(own, one_of(batch, teacher.stream), split))

    def _changed_table(
        self, split: Split, streams: Sequence[Any], epoch: int = 0
    ) -> dict[str, Tensor]:
        """Return the changed logits ``(T, N, C)`` of a split; nothing if they are too large."""
        table = self._tables[split].get(LOGITS)
        if table is None or table[0].numel() * 4 * len(self) > _LIMIT:
            return {}
        self._bind(streams)
        parts = []
        for batch in self._batches(split, streams, epoch):
            logits = self._untouched(batch, split, streams)[LOGITS]
            parts.append(self._change_all(logits, batch, split))
        return {LOGITS: torch.cat(parts, dim=1)}

    def _bind(self, streams: Sequence[Any]) -> None:
        if self._bound:
            return
        self._bound = True
        seen: dict[Split, list[tuple[Tensor, Tensor]]] = {}

        def rows(network: int, stream: int, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
            if split not in seen:
                seen[split] = list(self._seen(split, streams))
            return ((logits[network], target[stream]) for logits, target in seen[split])

        for number, teacher in enumerate(self._teachers):
            if teacher.module.frozen_teacher.intervention is not None:
                place = int(self._network_of[number]), teacher.stream
                teacher.module.frozen_teacher.bind(partial(rows, *place), streams[teacher.stream])

    def _seen(self, split: Split, streams: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what the untouched teachers say of a split, that of its first epoch."""
        fixed = _all_fixed(split, streams)
        for batch in self._batches(split, streams):
            outputs = self._untouched(batch, split, streams) if fixed else self._run(batch, split)
            yield outputs[LOGITS], batch["target"]

    @torch.no_grad()
    def _run(self, batch: PairedBatch, split: Split) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self._networks(of_members(batch["teacher"], self._streams))
        wanted = self._layers if split == "train" else self._evaluated_layers
        return {name: value for name, value in outputs.items() if name in wanted}

    def _table(self, split: Split, streams: Sequence[Any], epoch: int = 0) -> dict[str, Tensor]:
        """Return the outputs ``(T, N, ...)`` of a whole split; nothing if they are too large."""
        size = streams[0].split_size(split)
        parts: list[dict[str, Tensor]] = []
        for batch in self._batches(split, streams, epoch):
            outputs = self._run(batch, split)
            if not parts and _bytes_a_sample(outputs) * size > _LIMIT:
                return {}
            parts.append(outputs)
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def _batches(
        self, split: Split, streams: Sequence[Any], epoch: int = 0
    ) -> Iterator[PairedBatch]:
        """Yield all of a split in order, ``(S, B, ...)``, on the teachers' device."""
        device, rows = self._streams.device, streams[0].batch_size
        if rows is not None and _launches_cost(device):
            one = next(streams[0].batches(split, 1, epoch))["teacher"]
            size = sum(values.nbytes for values in tensors_of(one))
            rows = max(rows, _AT_ONCE // (size * len(self._streams)))
        for batches in zip(*(s.batches(split, rows, epoch) for s in streams), strict=True):
            yield together(move_data_to_device(batches, device))


def _launches_cost(device: torch.device) -> bool:
    return device.type == "cuda"


def _all_fixed(split: Split, streams: Sequence[Any]) -> bool:
    return all(stream.cacheable(split) for stream in streams)


def _both_fixed(split: Split, streams: Sequence[Any]) -> bool:
    return all(stream.both_cacheable(split) for stream in streams)


def _is_due(tables: Mapping[str, Mapping[str, Tensor]], fixed: bool) -> bool:
    """Return whether an epoch needs a table of its own; not where the first had no room."""
    return "train" not in tables or (bool(tables["train"]) and not fixed)


def _keep(tables: dict[str, dict[str, Tensor]], found: dict[str, Tensor]) -> None:
    """Put a table of training data where the last one was."""
    kept = tables.setdefault("train", found)
    if kept is not found:
        for name, values in found.items():
            kept[name].copy_(values)


def _bytes_a_sample(outputs: Mapping[str, Tensor]) -> int:
    return sum(values[:, 0].numel() * values.element_size() for values in outputs.values())


def _looked_up(table: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Return rows ``(T, B, ...)`` of tables ``(T, N, ...)``."""
    rows = torch.arange(len(index), device=index.device).unsqueeze(1)
    return {name: values[rows, index] for name, values in table.items()}


def _each_once(
    members: Sequence[StackMember], key: Callable[[StackMember], Hashable]
) -> tuple[Tensor, list[StackMember]]:
    """Return the place of each member among those of another key, and one of each key."""
    keys = list(map(key, members))
    kinds = dict(zip(keys, members, strict=True))
    places = {key: place for place, key in enumerate(kinds)}
    return torch.tensor([places[key] for key in keys]), list(kinds.values())


def _teacher_key(member: StackMember) -> Hashable:
    return *_network_key(member), _settings(member.module.frozen_teacher.intervention)


def _settings(intervention: Intervention | None) -> Hashable:
    """Return what tells interventions apart; one whose arguments are no keys is like no other."""
    if intervention is None:
        return None
    try:
        hash(intervention.settings)
    except TypeError:
        return id(intervention)
    return intervention.settings


def _network_key(member: StackMember) -> tuple[Hashable, ...]:
    return member.module.frozen_teacher.hash, member.stream, *_mask_key(member)


def _mask_key(member: StackMember) -> tuple[str | None, bytes]:
    parts = member.mask or ()
    return member.layer, b"".join(values.cpu().numpy().tobytes() for values in parts)
