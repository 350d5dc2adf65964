"""A cluster of two nodes, which two Rays of this machine are: disks and caches of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.commands import sweep
from ntdh_bench.records.files import read_record

pytestmark = pytest.mark.slow

NODES = ("first", "second")
COMPARED = ("run", "config_hash", "metrics", "curves", "teacher_hash")


@contextmanager
def two_nodes(folder: Path) -> Iterator[str]:
    """Start a head and another node of one core each; gives the cluster's address."""
    utils = pytest.importorskip("ray.cluster_utils")
    cluster = utils.Cluster()
    try:
        for name in NODES:
            (folder / name / "tmp").mkdir(parents=True)
            places = {"NTDH_CACHE": folder / name / "cache", "TMPDIR": folder / name / "tmp"}
            variables = {**{key: str(path) for key, path in places.items()},
                         "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
            cluster.add_node(num_cpus=1, num_gpus=0, env_vars=variables, include_dashboard=False)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def experiment(folder: Path) -> Path:
    """Three seeds of KD and its control, which train a teacher each."""
    spec: dict[str, Any] = {
        "title": "Short", "requires": "synthetic", "keep": ["curves"],
        "base": str(Path("configs/synthetic_converged.yaml").resolve()),
        "protocols": {"short": {"seeds": 3, "overrides": {
            "trainer.max_epochs": 2, "data.init_args.steps_per_epoch": 5,
        }}},
        "grids": [{"axes": {
            "method": {"KD": {}, "without_kd": {"model.init_args.distiller": None}},
        }}],
    }  # fmt: skip
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def swept(path: Path, machine: Path, *words: str) -> list[dict[str, Any]]:
    """Run the command on a machine with a store and results of its own; returns its records."""
    places = ["--runs", str(machine / "runs"), "--results", str(machine / "results")]
    assert sweep.main(["sweep", str(path), *places, *words]) == 0
    return [read_record(file) for file in sorted((machine / "runs" / "records").iterdir())]


def test_a_sweep_on_two_nodes_comes_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node trains; the driver alone has records, the same as of a sweep of one machine."""
    path, driver, home = experiment(tmp_path), tmp_path / "driver", tmp_path / "home"
    monkeypatch.setenv("NTDH_CACHE", str(driver / "cache"))
    with two_nodes(tmp_path) as address:
        how = ["--engine", "ray", "--address", address, "--jobs", "2", "--stack", "off"]
        away = swept(path, driver, *how, "--export", str(tmp_path / "short.zip"))
    assert len(away) == 6
    for node in NODES:
        assert list((tmp_path / node / "cache" / "teachers").glob("*.ckpt")), node
        assert not list((tmp_path / node / "tmp").glob("ntdh-run-*")), node
        assert not list((tmp_path / node).rglob("record.json")), node
    assert not (driver / "cache" / "teachers").exists()

    assert swept(path, home, "--import", str(tmp_path / "short.zip")) == away
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "alone"))
    alone = swept(path, tmp_path / "machine", "--engine", "local", "--jobs", "1", "--stack", "off")
    for one, two in zip(alone, away, strict=True):
        assert [one[key] for key in COMPARED] == [two[key] for key in COMPARED]
