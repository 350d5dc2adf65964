"""What a run may take from earlier ones, and what it says of that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from ntdh_bench.masks import FeatureSaliency
from ntdh_bench.records.identity import baseline_hash
from ntdh_bench.runs import Run
from ntdh_bench.runs.teacher import teacher_key
from tests.helpers import fitted, flags, record_of

Write = Callable[[str, str], Path]
SHORT = ("--trainer.max_epochs", "1", "--data.steps_per_epoch", "3", "--mask.permutations", "1")
OWN = ("--model.teacher_network", "own.Net", "--model.distiller", "own_kd.Squares")
NET = """
from torch import nn

from own_parts import act


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden1, self.out = nn.Linear(50, 8), nn.Linear(8, 4)

    def forward(self, inputs):
        return self.out(act(self.hidden1(inputs)))
"""
SQUARES = """
from ntdh_bench.distillers.base import LogitDistiller


class Squares(LogitDistiller):
    def forward(self, student, teacher):
        return (student - teacher).square().mean()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(write_module: Write) -> Write:
    """A network, a function it uses and a distiller that are not this package's."""
    write_module("own.py", NET)
    write_module("own_parts.py", "from torch import relu as act\n")
    write_module("own_kd.py", SQUARES)
    return write_module


Fit = Callable[..., dict[str, Any]]


@pytest.fixture
def fit(tmp_path: Path, cache: Path) -> Fit:
    """Run a short ``fit``; returns its record, and its folder as ``folder``."""

    def run(*more: str) -> dict[str, Any]:
        folder = fitted(tmp_path / "runs", *SHORT, *more)
        return {"folder": folder, **record_of(folder)}

    return run


def test_teachers_of_other_distances_are_other_teachers_of_the_same_students() -> None:
    config = read_config(Path("configs/quickstart.yaml"))

    def of(**given: Any) -> Run:
        arguments = {**config["model"]["init_args"], **given}
        run = Run.parse(
            "fit", config={**config, "model": {**config["model"], "init_args": arguments}}
        )
        run.load_data("fit")
        return run

    told = {"teacher_dist_weight": 1.0, "teacher_dist": "kl"}
    runs = of(), of(**told), of(teacher_dist_weight=0.1), of(teacher_dist="ncjsd")
    assert runs[0].identity == runs[1].identity  # as records before there were any
    assert not told.keys() & runs[0].identity["model"]["init_args"].keys()
    assert len({teacher_key(run) for run in runs}) == 3
    assert len({baseline_hash(run.identity) for run in runs}) == 1


def test_an_edited_network_is_another_teacher(
    fit: Fit, own: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(*OWN)
    assert "teacher trained in this run" in _spaced(capsys)
    assert (first["teacher"], first["from_cache"]) == ("trained", {})
    assert [part["name"] for part in first["plugins"]] == ["own.Net", "own_kd.Squares"]
    assert first["config"]["third_party"].keys() == {"own.Net", "own_kd.Squares"}

    again = fit(*OWN)
    shown = _spaced(capsys)
    assert again["config_hash"] == first["config_hash"]
    assert again["from_cache"].keys() == {"teacher", "saliency"}
    assert "teacher from the cache, made 20" in shown
    assert f"teacher-{again['from_cache']['teacher']['key']}.ckpt" in shown
    assert again["metrics"] == first["metrics"]

    own("own_parts.py", "from torch import tanh as act\n")
    edited = fit(*OWN)
    assert (edited["teacher"], edited["from_cache"]) == ("trained", {})
    assert edited["config_hash"] != first["config_hash"]
    assert edited["metrics"] != first["metrics"]


def _spaced(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, all of it one space apart."""
    return " ".join(capsys.readouterr().out.split())


def test_an_edited_distiller_has_the_same_teacher_and_baseline(fit: Fit, own: Write) -> None:
    first = fit(*OWN)
    own("own_kd.py", SQUARES.replace(".mean()", ".mean() * 2"))
    edited = fit(*OWN)
    assert edited["teacher"] == "cached"
    assert edited["teacher_hash"] == first["teacher_hash"]
    assert edited["baseline_hash"] == first["baseline_hash"]
    assert edited["config_hash"] != first["config_hash"]


def test_a_damaged_teacher_is_trained_anew(
    fit: Fit, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit()
    (path,) = (cache / "teachers").glob("*.ckpt")
    whole = path.read_bytes()
    for content in (_flipped(whole), whole[:200]):
        path.write_bytes(content)
        capsys.readouterr()
        again = fit()
        assert f"ntdh-bench: note: {path} is damaged" in capsys.readouterr().err
        assert again["teacher"] == "trained"
        assert again["metrics"] == first["metrics"]
    assert fit()["teacher"] == "cached"


def _flipped(content: bytes) -> bytes:
    """Return what a bad disk gives: eight bytes in the middle changed, the length the same."""
    middle = len(content) // 2
    changed = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    return content[:middle] + changed + content[middle + 8 :]


def test_without_the_cache_all_is_made_anew(
    fit: Fit, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit()
    computed = []
    compute = FeatureSaliency.compute
    monkeypatch.setattr(
        FeatureSaliency,
        "compute",
        lambda self, *args: (computed.append(1), compute(self, *args))[1],
    )
    assert fit()["from_cache"].keys() == {"teacher", "saliency"}
    assert not computed
    anew = fit("--no-cache")
    assert (anew["teacher"], anew["from_cache"], computed) == ("trained", {}, [1])
    assert anew["metrics"] == first["metrics"]
    assert "no_cache" not in yaml.safe_load((anew["folder"] / "config.yaml").read_text())
    assert fit()["teacher"] == "cached"


def test_the_saliency_command_without_the_cache(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit()
    words = flags(Path("configs/quickstart.yaml"), tmp_path / "maps", *SHORT)
    for more, expected in ([[], "from the cache"], [["--no-cache"], "trained in this run"]):
        capsys.readouterr()
        assert main(["saliency", *words, *more]) == 0
        shown = _spaced(capsys)
        assert f"teacher {expected}" in shown
        assert ("Algorithm 1 from the cache" in shown) == (not more)


def test_a_teacher_that_the_clock_cut_short_is_not_cached(
    fit: Fit, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("--trainer.max_time", "00:00:00:01", "--trainer.max_epochs", "100000")
    record = fit(*short, "--model.distiller", "null", "--mask", "null")
    assert "trainer.max_time cut the training of the teacher short" in capsys.readouterr().err
    assert record["teacher"] == "trained"
    assert not list((cache / "teachers").glob("*.ckpt"))
    ample = ("--trainer.max_time", "01:00:00:00")
    assert fit(*ample)["teacher"] == "trained"
    assert fit(*ample)["teacher"] == "cached"


def test_a_checkpoint_of_other_code(
    fit: Fit, own: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run is refused, a measurement says so."""
    last = str(fit(*OWN)["folder"] / "checkpoints" / "last.ckpt")
    assert main(["test", "--ckpt_path", last]) == 0
    assert "the code of" not in capsys.readouterr().err
    own("own_parts.py", "from torch import tanh as act\n")
    assert main(["test", "--ckpt_path", last]) == 0
    assert "note: the code of own.Net is not that which" in capsys.readouterr().err
    assert main(["fit", "--ckpt_path", last, "--trainer.max_epochs", "2"]) == 1
    assert "a resumed run keeps its code" in capsys.readouterr().err
