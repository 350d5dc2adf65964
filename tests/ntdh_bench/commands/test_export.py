"""``ntdh-bench export``: files of a run's networks, and cards whose lines load them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ntdh_bench import runs
from ntdh_bench.cli import main
from ntdh_bench.datamodules import SyntheticDataModule
from ntdh_bench.errors import UserError
from ntdh_bench.runs import Run
from ntdh_bench.runs.card import loading_lines
from tests.helpers import fitted, refusal

SHORT = (
    "--trainer.max_epochs", "2", "--data.steps_per_epoch", "3", "--data.n_samples", "500",
    "--model.teacher_network.init_args.hidden", "[24, 16]", "--mask.permutations", "1",
)  # fmt: skip
BOTH = ("--config", "configs/overlays/teacher_both.yaml", "--mask", "null")


NAMES = ("a|b", "<img src=x>", "c", "d")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, with its control beside it."""
    folder = tmp_path_factory.mktemp("runs")
    run = fitted(folder, *SHORT)
    fitted(folder, *SHORT, "--config", "configs/overlays/without_kd.yaml")
    return run


def loaded(card: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the lines of a card in its folder; returns what they leave."""
    found = re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert found is not None
    assert len(found[1].split("\n\n")[-1].splitlines()) + found[1].count("import ") <= 6
    monkeypatch.chdir(card.parent)
    left: dict[str, Any] = {}
    exec(found[1], left)
    return left


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--format", "state_dict"), "student-last.pt"),
        ((), "student-last.pt2"),
        (("--format", "state_dict", "--network", "teacher"), "teacher-last.pt"),
    ],
)
def test_the_lines_of_a_card_load_what_was_trained(
    words: tuple[str, ...],
    name: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", str(finished), *words, "--output", str(tmp_path)]) == 0
    assert "logits of 4 test samples differ by at most 0" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.md", "record.json"}
    left = loaded(tmp_path / f"{name}.md", monkeypatch)
    assert left["logits"].shape == (1, 4)
    monkeypatch.undo()
    run = Run.parse("test", ["--ckpt_path", str(finished / "checkpoints" / "last.ckpt")])
    measured = runs.measure(run)
    batches = list(run.data.batches("test"))
    part = name.partition("-")[0]
    right = [
        left["network"](batch[part]).argmax(1) == batch["target"]  # type: ignore[literal-required]
        for batch in batches
    ]
    if part == "student":
        accuracy = float(torch.cat(right).float().mean())
        assert accuracy == pytest.approx(measured["accuracy"])


@pytest.mark.skipif(
    find_spec("onnxscript") is None or find_spec("onnxruntime") is None,
    reason="needs the extra `export`",
)
def test_the_lines_of_a_card_of_onnx(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["export", str(finished), "--format", "onnx", "--output", str(tmp_path)]
    assert main(words) == 0
    assert loaded(tmp_path / "student-last.onnx.md", monkeypatch)["logits"].shape == (1, 4)


def test_a_card_says_what_the_network_is(finished: Path) -> None:
    best = next((finished / "checkpoints").glob("best-*.ckpt"))
    assert main(["export", str(best), "--format", "state_dict"]) == 0
    card = (finished / "export" / f"student-{best.stem}.pt.md").read_text()
    for part in (
        "| Data set | synthetic, **simulated**",
        "| Licence of the data | none needed |",
        "| Seed | 0 |",
        "| Inputs | float32 (B, 50) |",
        "| Normalisation | each feature",
        "| Classes | 4, in the order of the logits: 0, 1, 2, 3 |",
        "- Gain over the same student without KD (task weight 1, the same seed): ",
        f"torch {torch.__version__.partition('+')[0]}",
        "class_path: ntdh_bench.models.DistillationModule",
    ):
        assert part in card, part
    measured = runs.measure(Run.parse("test", ["--ckpt_path", str(best)]))
    assert re.search(rf"\| accuracy \| [\d.]+ \| {measured['accuracy']:.4f} \|", card)


def test_a_teacher_of_both_modalities_is_built_by_the_lines_of_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fitted(tmp_path, *SHORT[:-2], *BOTH)
    assert main(["export", str(run), "--format", "state_dict", "--network", "teacher"]) == 0
    left = loaded(run / "export" / "teacher-last.pt.md", monkeypatch)
    assert type(left["network"]).__name__ == "ConcatFusion"
    assert left["logits"].shape == (1, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/where"], "no checkpoint no/where: give the folder of a run, or a checkpoint"),
        (["RUN", "--format", "torchscript"], "choose --format torch_export"),
        (["RUN", "--network", "both"], "--network both: this run has teacher and student"),
    ],
)
def test_what_cannot_be_exported(
    words: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(finished) if word == "RUN" else word for word in words]
    assert message in refusal(["export", *given], capsys)


def test_names_of_classes_end_no_cell_and_make_no_element(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyntheticDataModule, "class_names", NAMES)
    words = ["export", str(finished), "--format", "state_dict", "--output", str(tmp_path)]
    assert main(words) == 0
    card = (tmp_path / "student-last.pt.md").read_text()
    assert "in the order of the logits: a\\|b, &lt;img src=x>, c, d |" in card


def test_weights_of_a_network_that_no_setting_makes_have_no_lines() -> None:
    run: Any = SimpleNamespace(config={"model": {"class_path": "mine.Module", "init_args": {}}})
    with pytest.raises(UserError, match="has no argument student_network"):
        loading_lines(run, "student", "student.pt", "state_dict", torch.zeros(1, 2))
