from __future__ import annotations

from typing import Any

from ntdh_bench.experiments import Run
from ntdh_bench.sweep.estimate import expected_seconds


def run(distiller: str, ratio: str = "0.25", protocol: str = "short", seed: int = 0) -> Run:
    config: dict[str, Any] = {"model": {"distiller": {"class_path": distiller}}}
    labels = {"method": distiller, "ratio": ratio}
    return Run(f"{protocol}-{distiller}-{ratio}-{seed}", protocol, seed, labels, config)


def test_another_protocol_tells_nothing() -> None:
    finished = [(run("KD"), 60.0), (run("KD", protocol="long"), 3600.0)]
    assert expected_seconds([run("KD", seed=1), run("CRD")], finished) == 2 * 60
    assert expected_seconds([run("KD", protocol="long", seed=1)], finished) == 3600
    assert expected_seconds([run("KD", protocol="other")], finished) is None
    assert expected_seconds([run("KD"), run("KD", protocol="other")], finished) is None


def test_a_run_takes_what_those_of_its_cell_do_else_of_its_classes() -> None:
    finished = [(run("KD"), 10.0), (run("KD", seed=1), 30.0), (run("KD", "0.5"), 50.0)]
    finished += [(run("CRD"), 110.0)]
    assert expected_seconds([run("KD", seed=2)], finished) == 20
    assert expected_seconds([run("KD", "0.75")], finished) == 30
    assert expected_seconds([run("CRD", "0.5")], finished) == 110
    assert expected_seconds([run("SP")], finished) == 50


def test_seconds_that_were_not_recorded_do_not_count() -> None:
    assert expected_seconds([run("KD", seed=1)], [(run("KD"), 0.0)]) is None
    assert expected_seconds([], []) == 0
