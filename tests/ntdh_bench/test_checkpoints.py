from __future__ import annotations

import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ntdh_bench.checkpoints import (
    file_hash,
    load_network,
    read_checkpoint,
    state_hash,
    write_checkpoint,
)
from ntdh_bench.errors import UserError
from tests.helpers import network


def test_missing_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="damaged, not a checkpoint"):
        read_checkpoint(path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="no state_dict"):
        read_checkpoint(path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}, "object": nn.ReLU()}, path)
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


def test_another_network_is_named() -> None:
    source = nn.Sequential(nn.Linear(3, 2))
    state = {f"teacher.{name}": value for name, value in source.state_dict().items()}
    target = nn.Sequential(nn.Linear(3, 2))
    load_network(target, state, "teacher", "x.ckpt")
    assert torch.equal(target[0].weight, source[0].weight)
    with pytest.raises(UserError, match=r"another network: teacher\.0\.bias is \(2,\).*\(5,\)"):
        load_network(nn.Sequential(nn.Linear(3, 5)), state, "teacher", "x.ckpt")
    with pytest.raises(UserError, match="absent"):
        load_network(network(), state, "teacher", "x.ckpt")


def test_hash_follows_the_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = state_hash({"a": model})
    assert state_hash({"a": model}) == before
    assert state_hash({"b": model}) != before
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6
    assert state_hash({"a": model}) != before


def test_a_file_that_cannot_be_written_whole_is_not_written(tmp_path: Path) -> None:
    """The limit of this process stands for a full disk: torch hides why writing failed."""
    path = tmp_path / "last.ckpt"
    write_checkpoint({"state_dict": {}}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match=f"cannot write to {tmp_path}: File too large"):
            write_checkpoint({"state_dict": {"weight": torch.zeros(10_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _bomb(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"left": value, "right": value}
    return value


def _cycle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["itself"] = value
    return value


@pytest.mark.parametrize("identity", [_bomb(40), _cycle(), {"a": torch.zeros(1)}])
def test_an_identity_that_unfolds_without_end_is_refused(
    identity: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}, "identity": identity}, path)
    with pytest.raises(UserError, match="damaged, its identity"):
        read_checkpoint(path)


@pytest.mark.parametrize("entry", ["trained_state_dict", "optimizer_states"])
def test_what_training_goes_on_from_is_finite(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    values: Any = {"a": torch.tensor([1.0, torch.inf])}
    content = [{"state": {0: values}}] if entry == "optimizer_states" else values
    torch.save({"state_dict": {}, entry: content}, path)
    with pytest.raises(UserError, match="not finite"):
        read_checkpoint(path)


def test_a_packed_checkpoint_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Torch would allocate what the directory of the zip promises."""
    sound, packed = tmp_path / "x.ckpt", tmp_path / "y.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1 << 20)}}, sound)
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < 1 << 16
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(packed)


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("/nowhere/x.ckpt"), Path("/")])
def test_only_files_have_a_hash(path: Path) -> None:
    with pytest.raises(UserError, match=str(path)):
        file_hash(path)
