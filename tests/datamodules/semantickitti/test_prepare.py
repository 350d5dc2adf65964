from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntdh_bench.datamodules.semantickitti import glance
from ntdh_bench.datamodules.semantickitti import prepare as module
from ntdh_bench.datamodules.semantickitti.glance import lacking
from ntdh_bench.datamodules.semantickitti.layout import sequences_folder
from ntdh_bench.datamodules.semantickitti.prepare import prepare, verify
from ntdh_bench.datasets import write_marker
from ntdh_bench.errors import UserError


@pytest.fixture(autouse=True)
def small_publication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tiny street be the published one."""
    monkeypatch.setattr(module, "SEQUENCE_LENGTH", {0: 4, 8: 3, 10: 2})
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))


def states(root: Path) -> list[str]:
    return [check.state for check in verify(root)]


def in_cache(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "semantickitti"
    return sorted(path.name[:2] for path in folder.iterdir() if path.is_dir())


def test_projects_into_the_cache(street: Path, tmp_path: Path) -> None:
    prepare(street)
    assert in_cache(tmp_path) == ["00", "08", "10"]


def test_what_is_there_is_prepared_before_the_rest_is_asked_for(
    street: Path, tmp_path: Path
) -> None:
    shutil.rmtree(sequences_folder(street) / "08")
    with pytest.raises(UserError, match=r"sequences missing: 08 \(there: 00, 10\)"):
        prepare(street)
    assert in_cache(tmp_path) == ["00", "10"]


def test_a_broken_sequence_does_not_stop_the_others(street: Path, tmp_path: Path) -> None:
    (sequences_folder(street) / "00" / "labels" / "000001.label").unlink()
    (sequences_folder(street) / "08" / "calib.txt").write_text("P2: 1 2 3\n")
    with pytest.raises(UserError, match=r"00/labels/000001\.label is missing.* / .*P2 is not"):
        prepare(street)
    assert in_cache(tmp_path) == ["10"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"register at .*semantic-kitti\.org"):
        prepare(tmp_path / "root")
    assert states(tmp_path / "root") == ["missing"]


def test_archives_unpacked_apart_are_linked_together(street: Path, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    for archive, name in (("velodyne", "velodyne"), ("colour", "image_2"), ("api", "labels")):
        for number in ("00", "08", "10"):
            target = downloads / archive / "dataset" / "sequences" / number
            shutil.copytree(sequences_folder(street) / number / name, target / name)
            shutil.copy(sequences_folder(street) / number / "calib.txt", target)
    root = tmp_path / "root"
    prepare(root, downloads)
    assert set(states(root)) == {"ok"}
    link = root / "semantickitti" / "sequences" / "08" / "labels"
    assert link.is_symlink()
    assert link.samefile(downloads / "api" / "dataset" / "sequences" / "08" / "labels")
    prepare(root, tmp_path)  # complete: nothing is linked


def test_dense_labels_are_linked_and_links_to_nowhere_replaced(
    street: Path, tmp_path: Path
) -> None:
    dense = sequences_folder(street) / "10" / "image_2_labels"
    dense.mkdir()
    root = tmp_path / "root"
    links = root / "semantickitti" / "sequences" / "10"
    prepare(root, street)
    moved = street.rename(tmp_path / "moved")
    assert not (links / "image_2").exists()
    prepare(root, moved)
    assert set(states(root)) == {"ok"}
    assert (links / "image_2_labels").samefile(sequences_folder(moved) / "10" / "image_2_labels")


def test_verify(street: Path) -> None:
    checks = verify(street)
    assert [check.state for check in checks] == ["ok"] * 12
    assert checks[0].note == "4 files, sizes agree"


def test_fewer_simulated_sequences_are_enough(street: Path) -> None:
    shutil.rmtree(sequences_folder(street) / "08")
    write_marker(street / "semantickitti", {})
    assert states(street) == ["ok"] * 8


def test_verify_names_what_is_wrong(street: Path) -> None:
    first, second, third = (sequences_folder(street) / name for name in ("00", "08", "10"))
    scan = first / "velodyne" / "000001.bin"
    scan.write_bytes(scan.read_bytes()[:-3])
    np.full(1500, 7, dtype="<u4").tofile(first / "labels" / "000000.label")
    (first / "calib.txt").write_text("P2: 1 2 3\n")
    Image.new("RGB", (50, 40)).save(second / "image_2" / "000002.png")
    (second / "labels" / "000001.label").unlink()
    (second / "calib.txt").unlink()
    shutil.rmtree(third)
    found = {
        check.path.relative_to(sequences_folder(street)).as_posix(): check
        for check in verify(street)
    }
    assert {name: check.state for name, check in found.items()} == {
        "00/velodyne/000001.bin": "corrupt",
        "00/labels/000000.label": "corrupt",
        "00/image_2": "ok",
        "00/calib.txt": "corrupt",
        "08/velodyne": "ok",
        "08/labels": "incomplete",
        "08/image_2/000002.png": "corrupt",
        "08/calib.txt": "missing",
        "10": "missing",
    }
    assert found["00/labels/000000.label"].note.startswith("label 7 (1500 times")
    assert found["00/calib.txt"].note.startswith("P2 is not the 12 numbers")
    assert found["08/labels"].note == "2 of the 3 files published, all sound"
    assert found["08/image_2/000002.png"].note.startswith("50x40, but")


def test_real_files(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if not (data_root / "semantickitti" / "sequences" / "07").is_dir():
        pytest.skip("no sequence 07")
    checks = [check for check in verify(data_root) if "07" in check.path.parts]
    assert not any(check.state == "corrupt" for check in checks)


def test_links_to_folders_and_shadows(street: Path, tmp_path: Path) -> None:
    given, root = tmp_path / "given", tmp_path / "root"
    given.mkdir()
    (given / "kitti").symlink_to(street)
    (given / "round").symlink_to(given)
    for path in [*street.rglob("*.bin"), *street.rglob("*.png"), *street.rglob("*.label")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    prepare(root, given)
    assert set(states(root)) == {"ok"}


def test_calling_again_with_good_files_heals(street: Path, tmp_path: Path) -> None:
    root, bad = tmp_path / "root", tmp_path / "bad"
    shutil.copytree(street, bad)
    (sequences_folder(bad) / "00" / "labels" / "000001.label").write_bytes(b"")
    with pytest.raises(UserError, match=r"000001\.label: 0 bytes"):
        prepare(root, bad)
    prepare(root, street)
    assert set(states(root)) == {"ok"}
    prepare(root, root)  # what is there is not linked to itself
    assert set(states(root)) == {"ok"}


def test_a_glance_agrees_with_verify(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "SEQUENCE_LENGTH", module.SEQUENCE_LENGTH)
    assert lacking(street) is None
    folder = sequences_folder(street)
    (folder / "08" / "calib.txt").unlink()
    assert lacking(street) == "no 08/calib.txt"
    (folder / "00" / "labels" / "000001.label").unlink()
    assert lacking(street) == "00/labels: 3 of 4"
    shutil.rmtree(folder / "10")
    assert lacking(street) == "2 of 3 sequences"
