from __future__ import annotations

import gzip
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import MNIST

from ntdh_bench.cache import file_digest
from ntdh_bench.datamodules.mnist import glance
from ntdh_bench.datamodules.mnist import prepare as module
from ntdh_bench.datamodules.mnist.glance import lacking
from ntdh_bench.datamodules.mnist.idx import read_labels, write_idx
from ntdh_bench.datamodules.mnist.layout import IDX_FOLDER, IDX_MD5, PHOTO_FOLDER, idx_file
from ntdh_bench.datamodules.mnist.prepare import MNIST_MIRRORS, prepare, verify
from ntdh_bench.errors import UserError
from tests.datamodules.mnist.files import write_archive


@pytest.fixture(autouse=True)
def small_publication(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small files be the published ones."""
    for name in IDX_MD5:
        path = published / IDX_FOLDER / name
        monkeypatch.setitem(IDX_MD5, name, file_digest(path))
        content = gzip.decompress(path.read_bytes())
        (published / "plain").write_bytes(content)
        plain = name.removesuffix(".gz")
        monkeypatch.setitem(module.UNPACKED_MD5, plain, file_digest(published / "plain"))
        (published / "plain").unlink()
    monkeypatch.setattr(module, "PHOTO_COUNT", {"train": 3, "test": 3, "val": 0})


def states(root: Path) -> list[str]:
    return [check.state for check in verify(root)]


def test_from_a_folder(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    prepare(root, published)
    assert states(root) == ["ok"] * 6
    prepare(root, tmp_path)  # complete: nothing is looked for


def test_from_a_folder_with_the_archive(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    shutil.copytree(published / "mnist", folder / "mnist")
    with tarfile.open(folder / "BSR_bsds500.tgz", "w:gz") as tar:
        tar.add(published / "bsds500" / "BSDS500", "BSR/BSDS500")
    prepare(tmp_path / "root", folder)
    assert states(tmp_path / "root") == ["ok"] * 6
    assert (folder / "BSR_bsds500.tgz").exists()


def test_downloads_what_is_missing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "bsds.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(published / "bsds500" / "BSDS500", "BSR/BSDS500")
    asked = []

    def fake(urls: Any, path: Path, *, max_bytes: int, check: Any) -> Path:
        asked.append(list(urls))
        source = archive if path.suffix == ".tgz" else published / IDX_FOLDER / path.name
        assert check(source) is None
        assert check(Path(__file__)) is not None
        assert source.stat().st_size <= max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(source, path))

    monkeypatch.setattr(module, "download", fake)
    prepare(tmp_path / "root")
    assert states(tmp_path / "root") == ["ok"] * 6
    assert len(asked) == 5
    assert asked[0] == [mirror + "train-images-idx3-ubyte.gz" for mirror in MNIST_MIRRORS]
    assert [path.name for path in (tmp_path / "root" / "bsds500").iterdir()] == ["BSDS500"]


def test_from_folder_errors(published: Path, tmp_path: Path) -> None:
    labels = published / IDX_FOLDER / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz: MD5 is .*, expected"):
        prepare(tmp_path / "root", published)
    labels.unlink()
    with pytest.raises(UserError, match=r"no t10k-labels-idx1-ubyte\.gz in it"):
        prepare(tmp_path / "root", published)


def test_incomplete_photographs(published: Path, tmp_path: Path) -> None:
    (published / PHOTO_FOLDER / "test" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"test: 2 photographs, expected 3; get all of BSDS500"):
        prepare(tmp_path / "root", published)


def test_corrupt_file_at_the_root_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "root" / IDX_FOLDER / "train-images-idx3-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="delete it and try again"):
        prepare(tmp_path / "root", published)
    assert path.read_bytes() == b"mine"


def test_verify_names_what_is_wrong(published: Path) -> None:
    assert states(published) == ["ok"] * 6
    images = idx_file(published, "train", "images")
    images.write_bytes(images.read_bytes()[:-20])
    labels = idx_file(published, "test", "labels")
    write_idx(labels, read_labels(labels)[:-1])
    (published / PHOTO_FOLDER / "train" / "1.jpg").write_text("no photograph")
    (published / PHOTO_FOLDER / "test" / "2.jpg").unlink()
    expected = ["corrupt", "ok", "ok", "corrupt", "corrupt", "incomplete"]
    assert states(published) == expected
    assert "19 labels, but 20 images" in verify(published)[3].note


def test_verify_checks_the_sum_of_unpacked_files_too(published: Path) -> None:
    for name in IDX_MD5:
        packed = published / IDX_FOLDER / name
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert states(published) == ["ok"] * 6
    plain = idx_file(published, "train", "images")
    content = bytearray(plain.read_bytes())
    content[100] ^= 1
    plain.write_bytes(content)
    assert verify(published)[0].state == "corrupt"
    assert "MD5 is not the published" in verify(published)[0].note


def test_verify_compares_the_labels_of_the_archive(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ARCHIVE_COUNT", {"train": 1, "test": 1})
    write_archive(published, [0])
    assert states(published)[6:] == ["ok", "missing"]  # there are no test images
    write_archive(published, [1])
    assert "labels differ from MNIST's" in verify(published)[6].note


def test_verify_of_a_part_of_the_archive_alone(published: Path) -> None:
    write_archive(published, [0, 1, 2])
    write_archive(published, [0], "test")
    shutil.rmtree(published / "bsds500")  # MNIST-M of the archive needs no photographs
    assert states(published) == ["ok"] * 4 + ["incomplete"] * 2
    assert verify(published)[4].note.startswith("3 of 59001 images decoded")
    assert lacking(published) == "MNIST-M train: 3 of 59,001"


def test_a_glance_agrees_with_verify(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "PHOTO_COUNT", module.PHOTO_COUNT)
    assert lacking(published) is None
    (published / PHOTO_FOLDER / "train" / "0.jpg").unlink()
    assert lacking(published) == "BSDS500 train: 2 of 3"
    (published / PHOTO_FOLDER / "train" / "._1.jpg").write_bytes(b"\0\5\x16\7")
    assert lacking(published) == "BSDS500 train: 2 of 3"
    idx_file(published, "test", "labels").unlink()
    assert lacking(published) == "no test labels of MNIST"


def test_stray_photographs_are_not_placed_and_good_ones_heal(
    published: Path, tmp_path: Path
) -> None:
    root, given = tmp_path / "root", tmp_path / "given"
    shutil.copytree(published, given)
    stray = given / PHOTO_FOLDER / "train" / "stray.jpg"
    shutil.copy(given / PHOTO_FOLDER / "train" / "0.jpg", stray)
    with pytest.raises(UserError, match=r"train: 4 photographs, expected 3; get all of BSDS500"):
        prepare(root, given)
    assert not list((root / "bsds500").rglob("*"))
    # As an earlier version left it.
    shutil.copytree(given / "bsds500", root / "bsds500")
    prepare(root, published)
    assert states(root) == ["ok"] * 6
    assert (root / PHOTO_FOLDER / "train" / "others" / "stray.jpg").is_file()
    broken = root / PHOTO_FOLDER / "test" / "1.jpg"
    broken.unlink()
    prepare(root, published)
    assert states(root) == ["ok"] * 6


def test_links_to_folders_are_followed(published: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "digits").symlink_to(published / "mnist")
    (given / "photographs").symlink_to(published / "bsds500")
    (given / "round").symlink_to(given)
    prepare(tmp_path / "root", given)
    assert states(tmp_path / "root") == ["ok"] * 6


def test_a_web_page_as_the_archive_is_named(published: Path, tmp_path: Path) -> None:
    shutil.rmtree(published / "bsds500")
    (published / "BSR_bsds500.tgz").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(UserError, match=r"BSR_bsds500\.tgz: damaged, or not a \.tar\.gz") as caught:
        prepare(tmp_path / "root", published)
    assert len(str(caught.value)) <= 400
    assert not list((tmp_path / "root" / "bsds500").rglob("*.jpg"))


def test_sums_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert MNIST_MIRRORS[0] in MNIST.mirrors
    assert dict(MNIST.resources) == IDX_MD5


def test_unpacked_sums_are_those_of_the_published_files(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    checks = verify(data_root)[:4]
    if {check.state for check in checks} != {"ok"}:
        pytest.skip(f"no complete MNIST in {data_root}")
    for check in checks:
        if check.path.suffix == ".gz":
            plain = tmp_path / check.path.stem
            plain.write_bytes(gzip.decompress(check.path.read_bytes()))
            assert module.UNPACKED_MD5[plain.name] == file_digest(plain)
