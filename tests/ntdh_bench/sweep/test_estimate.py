from __future__ import annotations

from typing import Any

from ntdh_bench.experiments import Run
from ntdh_bench.sweep.estimate import Timing, expected_seconds


def run(distiller: str, ratio: str = "0.25", protocol: str = "short", seed: int = 0) -> Run:
    config: dict[str, Any] = {"model": {"distiller": {"class_path": distiller}}}
    labels = {"method": distiller, "ratio": ratio}
    return Run(f"{protocol}-{distiller}-{ratio}-{seed}", protocol, seed, labels, config)


def expected(todo: list[Run], finished: list[tuple[Run, float]]) -> float | None:
    """Of runs that are and were alone."""
    found = expected_seconds(
        [(one, False) for one in todo], [(one, Timing(seconds)) for one, seconds in finished]
    )
    assert found.word == "about"
    return None if found.unknown else found.seconds


def test_another_protocol_tells_nothing() -> None:
    finished = [(run("KD"), 60.0), (run("KD", protocol="long"), 3600.0)]
    assert expected([run("KD", seed=1), run("CRD")], finished) == 2 * 60
    assert expected([run("KD", protocol="long", seed=1)], finished) == 3600
    assert expected([run("KD", protocol="other")], finished) is None
    todo = [(run("KD"), False), (run("KD", protocol="other"), False), (run("CRD"), False)]
    alone = [(one, Timing(seconds)) for one, seconds in finished]
    assert expected_seconds(todo, alone) == (2 * 60, "about", 2, ("other",))


def test_a_run_takes_what_those_of_its_cell_do_else_of_its_classes() -> None:
    finished = [(run("KD"), 10.0), (run("KD", seed=1), 30.0), (run("KD", "0.5"), 50.0)]
    finished += [(run("CRD"), 110.0)]
    assert expected([run("KD", seed=2)], finished) == 20
    assert expected([run("KD", "0.75")], finished) == 30
    assert expected([run("CRD", "0.5")], finished) == 110
    assert expected([run("SP")], finished) == 50


def test_seconds_that_were_not_recorded_do_not_count() -> None:
    assert expected([run("KD", seed=1)], [(run("KD"), 0.0)]) is None
    assert expected([], []) == 0


def test_runs_in_stacks_go_by_those_in_stacks() -> None:
    alone, stacked = Timing(10.0), Timing(1.0, stacked=True)
    finished = [(run("KD"), alone), (run("CRD"), stacked)]
    assert expected_seconds([(run("KD", seed=1), True)], finished) == (1.0, "about", 1, ())
    assert expected_seconds([(run("KD", seed=1), False)], finished) == (10.0, "about", 1, ())
    both = [(run("KD", seed=1), True), (run("CRD", seed=1), False)]
    assert expected_seconds(both, finished[:1]) == (20.0, "at most", 2, ())
    assert expected_seconds(both[1:], finished[1:]) == (1.0, "at least", 1, ())
    mixed = [(run("KD", protocol="long"), stacked), (run("KD"), alone)]
    todo = [(run("KD", protocol="long", seed=1), False), (run("KD", seed=1), True)]
    assert expected_seconds(todo, mixed) == (11.0, "about", 2, ())
