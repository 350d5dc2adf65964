from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ntdh_bench.cli import main
from ntdh_bench.errors import UserError
from ntdh_bench.pictures.file import FILE, Pictures
from ntdh_bench.show.page import render
from ntdh_bench.show.runs import read_run
from tests.ntdh_bench.pictures.made import made_pictures
from tests.ntdh_bench.show.made import KD, made_run, settings

_VOID = {"br", "img", "input", "link", "meta"}


class _Balanced(HTMLParser):
    """Ends where an element is closed that was not opened last."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in _VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Nothing is left open."""

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def page_of(folder: Path) -> str:
    """The page of a run; it is well-formed, and loads nothing."""
    page = render(read_run(folder))
    reader = _Balanced()
    reader.feed(page)
    assert not reader.opened
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    return page


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def test_a_page_has_all_that_a_run_kept(tmp_path: Path) -> None:
    page = page_of(made_run(tmp_path / "run", pictures=made_pictures()))
    assert sections(page) == ["result", "settings", "curves", "classes", "samples", "again"]
    assert "dog &lt;b&gt;" in page
    assert "dog <b>" not in page
    assert page.count("data:image/png;base64,") == 2
    assert "KD (temperature 4)" in page
    assert f"ntdh-bench fit --config {tmp_path / 'run' / 'config.yaml'}" in page


def test_the_gain_is_over_the_control_of_the_same_seed(tmp_path: Path) -> None:
    made_run(tmp_path / "control", settings(distiller=None), accuracy=0.45)
    made_run(tmp_path / "another seed", settings(seed=1, distiller=None), accuracy=0.1)
    run = made_run(tmp_path / "run", accuracy=0.5)
    page = page_of(run)
    assert "gain over w/o KD [points]" in page
    assert "+5.00" in page
    assert "student, w/o KD" in page
    assert "No control lies beside" in page_of(made_run(tmp_path / "far" / "run"))


def test_equal_task_is_the_primary_control_where_the_task_weighs_less(tmp_path: Path) -> None:
    def weighted(distiller: object) -> dict[str, object]:
        found = settings(distiller=distiller)
        found["model"]["init_args"]["task_weight"] = 0.5
        return found

    made_run(tmp_path / "control", settings(distiller=None), accuracy=0.45)
    made_run(tmp_path / "equal", weighted(None), accuracy=0.3)
    run = read_run(made_run(tmp_path / "run", weighted(KD)))
    assert list(run.baselines()) == ["equal task", "w/o KD"]
    assert run.baselines()["equal task"]["metrics"]["last"]["test"]["accuracy"] == 0.3


def test_an_older_run_says_what_is_missing(tmp_path: Path) -> None:
    page = page_of(made_run(tmp_path / "run"))
    assert sections(page) == ["result", "settings", "curves", "again"]
    assert "no pictures.npz" in page
    assert "no TensorBoard log" in page


def test_an_interrupted_run_has_a_page(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    (run / "record.json").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    page = page_of(run)
    assert "not finished" in page
    assert "goes on where it stopped" in page


@pytest.mark.parametrize("text", ["model: x", "mask: {init_args: y}", "data: 3"])
def test_a_config_that_no_run_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="is not as a run writes it"):
        read_run(tmp_path)


def test_a_name_that_is_no_unicode_ends_no_page(tmp_path: Path) -> None:
    pictures = made_pictures()
    pictures.classes = ("\ud800", "b", "c")
    folder = made_run(tmp_path / "run", pictures=pictures)
    assert main(["show", str(folder)]) == 0
    assert "?" in (folder / "run.html").read_text("utf-8")


def test_a_record_of_a_sweep_has_a_page_with_its_controls(tmp_path: Path) -> None:
    store = tmp_path / "records"
    store.mkdir()
    for name, config, accuracy in (
        ("a1", settings(), 0.5),
        ("b2", settings(distiller=None), 0.25),
    ):
        run = made_run(tmp_path / name, config, accuracy=accuracy)
        (run / "record.json").rename(store / f"{name}.json")
    page = page_of(store / "a1.json")
    assert "+25.00" in page
    assert "its folder was not kept" in page


def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", pictures=made_pictures())
    (run / FILE).write_bytes(b"PK no zip")
    page = page_of(run)
    assert f"{run / FILE}: damaged, or not" in page
    assert "classes" not in sections(page)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["config", "metrics", "environment", "seed"])
def test_a_record_without_a_part_is_refused_in_one_line(tmp_path: Path, key: str) -> None:
    run = made_run(tmp_path / "run")
    record = json.loads((run / "record.json").read_text())
    del record[key]
    (run / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError) as refused:
        read_run(run)
    assert str(run) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_maps_of_labels_have_a_key_and_what_a_mask_drops(tmp_path: Path) -> None:
    target = np.zeros((1, 6, 8), np.int16)
    target[0, :, 4:] = 1
    target[0, 0] = -1
    pictures = Pictures(
        ("wall", "floor", "bed"),
        made_pictures().confusion,
        np.zeros(3),
        np.array([1, 0, 0]),
        target,
        {"student": target.clip(0)},
        {},
        target == 0,
        {"student": np.zeros((1, 6, 8), np.uint8)},
    )
    config = {**settings(), "mask": {"class_path": "ntdh_bench.masks.SampleMask", "init_args": {}}}
    page = page_of(made_run(tmp_path / "run", config, pictures))
    assert "not counted" in page
    assert ">wall</li>" in page
    assert ">bed</li>" not in page, "it is not seen"
    assert "dropped by the mask (red)" in page
    assert "mask" in sections(page)


def test_a_feature_mask_on_the_input_is_shown_on_an_image(tmp_path: Path) -> None:
    pictures = made_pictures()
    pictures.kept = np.arange(24) % 3 > 0
    pictures.divergence = np.linspace(-1, 1, 24)
    mask = {"class_path": "ntdh_bench.masks.FeatureMask", "init_args": {"layer": "input"}}
    page = page_of(made_run(tmp_path / "run", {**settings(), "mask": mask}, pictures))
    assert "8 of 24 features" in page
    assert "Removed pixels in red" in page
    orange = page.count('fill="#D55E00"/>')
    assert orange == 8
