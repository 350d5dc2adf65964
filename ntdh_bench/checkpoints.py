"""Trained networks on disk: reading them safely, telling one from another."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ntdh_bench.cache import file_digest, write_atomic
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.archives import open_zip
from ntdh_bench.files.reading import reading
from ntdh_bench.files.text import not_plain

#: Of last.ckpt: the weights of the last step, where averaging ended with others.
TRAINED = "trained_state_dict"
_MAX_TENSORS = 1_000_000
_WHAT = "a checkpoint of tensors and plain values"
_REMEDY = "give a sound checkpoint, or train it anew"


#: What Lightning and this package keep beside the weights, where it is there.
_ENTRIES = {
    "callbacks": dict, "identity": dict, "loops": dict, "hyper_parameters": dict,
    "datamodule_hyper_parameters": dict, "checkpoints": dict, "optimizer_states": list,
    "lr_schedulers": list, "distiller_sizes": list, "teacher_hash": str, "epoch": int,
    "global_step": int, "epochs": int, TRAINED: dict,
}  # fmt: skip


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all, through a temporary file in its folder.

    Raises:
        UserError: the folder cannot be written, or its disk is full.
    """
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides it behind one of its own
                raise error.__context__ from None
            raise


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a Lightning checkpoint on the CPU, tensors and plain values only.

    Raises:
        UserError: the file is missing, damaged, or holds something else, or weights that are not
            finite.
    """
    path = Path(path)
    checkpoint = _load(path, _REMEDY)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise FileError(f"{path} is not a checkpoint of Lightning: it has no state_dict; {_REMEDY}")
    for name, kind in _ENTRIES.items():
        if checkpoint.get(name) is not None and not isinstance(checkpoint[name], kind):
            raise FileError(f"{path}: damaged, its {name} is no {kind.__name__}; {_REMEDY}")
    _check_weights(path, checkpoint["state_dict"], _REMEDY)
    _check_weights(path, checkpoint.get(TRAINED, {}), _REMEDY)
    if not all(map(_is_finite, _tensors(checkpoint.get("optimizer_states")))):
        raise FileError(f"{path}: an optimiser's state is not finite; {_REMEDY}")
    if wrong := not_plain(checkpoint.get("identity")):
        raise FileError(f"{path}: damaged, its identity holds {wrong}; {_REMEDY}")
    return dict(checkpoint)


def read_weights(path: str | Path, remedy: str) -> dict[str, Tensor]:
    """Load a file of named weights alone (a state dict) on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds something else, or weights that are not
            finite.
    """
    path = Path(path)
    weights = _load(path, remedy)
    _check_weights(path, weights, remedy)
    return dict(weights)


def _load(path: Path, remedy: str) -> Any:
    if not path.is_file():
        raise FileError(f"no checkpoint {path}; {remedy}")
    with reading(path, _WHAT, remedy):
        _check_sizes(path, remedy)
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_sizes(path: Path, remedy: str) -> None:
    """Refuse what would take more memory than the file has bytes: torch allocates what it says."""
    if not zipfile.is_zipfile(path):  # torch's format before 1.6, which holds lengths everywhere
        raise FileError(f"{path}: damaged, not {_WHAT}, or of torch before 1.6; {remedy}")
    with open_zip(path, _MAX_TENSORS, _WHAT, remedy) as archive:
        members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > path.stat().st_size:
            raise FileError(f"{path}: damaged, torch packs no tensors; {remedy}")


def _tensors(plain: Any) -> Iterator[Tensor]:
    """Yield the tensors in lists and mappings, looking into each of these once."""
    waiting, seen = [plain], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, dict) else item


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _check_weights(path: Path, weights: Any, remedy: str) -> None:
    size = path.stat().st_size
    if not isinstance(weights, dict):
        raise FileError(f"{path}: no weights by name; {remedy}")
    for name, value in weights.items():
        if not isinstance(name, str) or not _is_whole(value, size):
            raise FileError(f"{path}: damaged, not all of its weights are tensors; {remedy}")
        if not _is_finite(value):
            raise FileError(f"{path}: weights that are not finite; {remedy}")


def _is_whole(value: object, file_size: int) -> bool:
    """Return whether a value is a tensor on the CPU whose elements all lie in the file."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= file_size
    )


def file_hash(path: str | Path) -> str:
    """Return 16 hex digits that identify a file's content.

    Raises:
        UserError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"no checkpoint {path}; {_REMEDY}")
    with reading(path, _WHAT, _REMEDY):
        return file_digest(path, "sha256")[:16]


def weights_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries ``prefix.*`` of a state dict, named as the network itself names them."""
    start = f"{prefix}."
    return {n.removeprefix(start): value for n, value in weights.items() if n.startswith(start)}


def load_network(network: nn.Module, weights: Mapping[str, Tensor], prefix: str, path: str) -> None:
    """Load the entries ``prefix.*`` of a state dict into ``network``.

    Raises:
        UserError: they belong to another network.
    """
    own = weights_of(weights, prefix)
    expected = network.state_dict()
    for name in sorted(expected.keys() | own.keys()):
        here, there = _shape(expected, name), _shape(own, name)
        if here != there:
            raise UserError(
                f"{path} is a checkpoint of another network: {prefix}.{name} is {there} in it, "
                f"but {here} in the configured {type(network).__name__}: give one of this network, "
                "or train it anew (fit --no-cache)"
            )
    network.load_state_dict(own)


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"


def state_hash(networks: Mapping[str, nn.Module]) -> str:
    """Return 16 hex digits that identify the weights and buffers of some networks."""
    digest = hashlib.sha256()
    for prefix, network in sorted(networks.items()):
        for name, value in sorted(network.state_dict().items()):
            digest.update(f"{prefix}.{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
