from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ntdh_bench import seeding
from ntdh_bench.batch import PairedBatch
from ntdh_bench.cache import file_digest
from ntdh_bench.datamodules import MNISTPairDataModule
from ntdh_bench.datamodules.mnist import datamodule
from ntdh_bench.datamodules.mnist.datamodule import NoisyPairs, add_noise, stratified
from ntdh_bench.datamodules.mnist.idx import read_images, read_labels, write_idx
from ntdh_bench.datamodules.mnist.layout import (
    ARCHIVE_FOLDER,
    IDX_COUNT,
    IDX_FOLDER,
    IDX_MD5,
    PHOTO_FOLDER,
    idx_file,
)
from ntdh_bench.datamodules.paired import RequestSampler
from ntdh_bench.datasets import MARKER, write_marker
from ntdh_bench.errors import UserError
from tests.datamodules.mnist.files import write_archive
from tests.fake_gpu import GPU, fake_gpu

Make = Callable[..., MNISTPairDataModule]


@pytest.fixture
def make(published: Path, tmp_path: Path) -> Make:
    def build(**options: Any) -> MNISTPairDataModule:
        settings = {"root": str(published), "val_size": 20, "batch_size": 8}
        return MNISTPairDataModule(**settings | {"cache_dir": str(tmp_path / "cache")} | options)

    return build


def gather(batches: Any, key: str = "teacher") -> Tensor:
    """All inputs of some batches, in order of their index."""
    found: list[PairedBatch] = list(batches)
    order = torch.cat([batch["index"] for batch in found]).argsort(stable=True)
    return torch.cat([batch[key] for batch in found])[order]  # type: ignore[literal-required]


def epoch_of(data: MNISTPairDataModule, epoch: int) -> Any:
    loader = data.train_dataloader()
    sampler: Any = loader.sampler
    sampler.set_epoch(epoch)
    return loader


def test_shapes_and_range(make: Make) -> None:
    data = make()
    batch = next(iter(data.train_dataloader()))
    for key in ("teacher", "student"):
        inputs = batch[key]  # type: ignore[literal-required]
        assert inputs.shape == (8, 1, 28, 28)
        assert inputs.dtype == torch.float32
        assert inputs.min() >= -1
        assert inputs.max() <= 1
    assert batch["target"].dtype == batch["index"].dtype == torch.int64
    assert (data.source, data.num_train, data.num_classes) == ("real", 40, 10)
    rgb = next(iter(make(student_input="rgb").train_dataloader()))
    assert rgb["teacher"].shape == (8, 1, 28, 28)  # type: ignore[union-attr]
    assert rgb["student"].shape == (8, 3, 28, 28)  # type: ignore[union-attr]


def test_noise_is_the_published_formula() -> None:
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    noise = torch.rand(4, 1, 28, 28)
    expected = ((images.double() / 255 + 4 * noise.double()).clamp(0, 1) - 0.5) / 0.5
    assert torch.allclose(add_noise(images, 4.0, noise.clone()).double(), expected, atol=1e-6)
    clean = add_noise(images, 0.0, None)
    assert torch.allclose(clean, images / 255 * 2 - 1, atol=1e-6)


def test_train_noise_is_new_each_epoch_and_the_same_when_asked_again(make: Make) -> None:
    data = make(seed=3)
    first, second = gather(epoch_of(data, 0)), gather(epoch_of(data, 1))
    assert not torch.equal(first, second)
    again = make(seed=3)  # as after resuming: the epoch is all that is known
    assert torch.equal(gather(epoch_of(again, 1)), second)
    assert not torch.equal(gather(epoch_of(make(seed=4), 1)), second)
    assert not torch.equal(gather(epoch_of(data, 1), "student"), second)


def test_noise_differs_between_samples_and_is_uniform(make: Make) -> None:
    data = make(teacher_noise=1.0, val_size=0)
    clean = gather(make(teacher_noise=0.0, val_size=0).batches("train"))
    noisy = gather(data.batches("train"))
    shown = clean == -1  # where the digit is black, (noise - 0.5) / 0.5 is all there is
    assert len(noisy.flatten(1).unique(dim=0)) == len(noisy)
    assert noisy[shown].mean().abs() < 0.02
    assert (noisy[shown].std() - 3**-0.5).abs() < 0.02


@pytest.mark.parametrize("batch_size", [1, 7, 40, None])
def test_noise_does_not_depend_on_the_batch(make: Make, batch_size: int | None) -> None:
    expected = gather(make().batches("train", epoch=2))
    data = make(batch_size=batch_size)
    assert torch.equal(gather(epoch_of(data, 2)), expected)
    assert torch.equal(gather(data.batches("train", batch_size=5, epoch=2)), expected)


def test_noise_does_not_depend_on_the_ranks(make: Make) -> None:
    data = make()
    expected = gather(data.batches("train", epoch=1))
    batches = []
    for rank in range(4):
        sampler = RequestSampler(40, 8, shuffle=True, rank=rank, world_size=4)
        sampler.set_epoch(1)
        batches += [data.splits["train"][request] for request in sampler]
    assert torch.equal(gather(batches), expected)


def test_noise_does_not_depend_on_workers_even_when_they_persist(make: Make) -> None:
    data = make(num_workers=2)
    loader = data.train_dataloader()
    sampler: Any = loader.sampler
    alone = make()
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected = list(epoch_of(alone, epoch))
        for found, wanted in zip(loader, expected, strict=True):
            assert torch.equal(found["index"], wanted["index"])
            assert torch.equal(found["teacher"], wanted["teacher"])  # type: ignore[arg-type]


def test_blocks_of_a_large_batch_equal_one_block() -> None:
    images = torch.randint(0, 256, (300, 1, 4, 4), dtype=torch.uint8)
    pairs = NoisyPairs(images, images, torch.zeros(300).long(), (2.0, 0.0), seed=0)
    whole, clean = pairs.inputs(torch.arange(300), 0)
    assert isinstance(whole, Tensor)
    assert torch.equal(whole[200:210], pairs.inputs(torch.arange(200, 210), 0)[0])
    assert isinstance(clean, Tensor)
    assert torch.equal(clean, add_noise(images, 0, None))


@pytest.mark.parametrize("room", [0, 2**40])
def test_noise_is_made_on_the_device_of_the_images(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datamodule, "free_bytes", lambda device: room)
    images = torch.randint(0, 256, (300, 1, 5, 5), dtype=torch.uint8)
    pairs = NoisyPairs(images, images, torch.zeros(300).long(), (2.0, 0.0), seed=0)
    assert pairs.held_bytes == 2 * 300 * 25 + 300 * 8  # bytes, not what the networks see
    with fake_gpu():
        batch = pairs.on(GPU).samples(torch.arange(5).to(GPU), 0)
    assert {value.device for value in batch.values() if isinstance(value, Tensor)} == {GPU}


def test_noise_of_an_epoch_at_once_is_that_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "free_bytes", lambda device: 2**40)
    images = torch.randint(0, 256, (300, 1, 5, 5), dtype=torch.uint8)
    make = partial(NoisyPairs, images, images.flip(0), torch.zeros(300).long(), (2.0, 0.5), seed=0)
    pairs, index = make(), torch.tensor([7, 290, 7])
    for epoch in (0, 3, 1):
        pairs._make(epoch)
        assert pairs._made
        found, wanted = pairs.inputs(index, epoch), make().inputs(index, epoch)
        assert all(map(torch.equal, found, wanted))


def test_noise_of_a_device_is_that_of_the_cpu(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gather(make().batches("train", epoch=3))
    monkeypatch.setattr(seeding, "_drawn", seeding._drawn_on_device)
    assert torch.equal(gather(make().batches("train", epoch=3)), expected)


def test_validation_and_test_are_the_same_in_every_run(make: Make) -> None:
    one, two = make(seed=0), make(seed=1)
    for split in ("val", "test"):
        for key in ("teacher", "student"):
            first = gather(one.batches(split, epoch=0), key)
            assert torch.equal(first, gather(two.batches(split, epoch=5), key))
    other = make(data_seed=1)
    assert not torch.equal(gather(one.batches("test")), gather(other.batches("test")))


def test_cacheable_says_whether_inputs_change(make: Make) -> None:
    assert not make().cacheable("train")
    assert make().cacheable("val")
    assert make(teacher_noise=0.0, student_noise=0.0).cacheable("train")
    clean = make(teacher_noise=0.0, student_noise=0.0, seed=1)
    assert torch.equal(gather(clean.batches("train")), gather(clean.batches("train", epoch=1)))


def test_splits_are_disjoint_stratified_and_paired(make: Make, published: Path) -> None:
    data = make(teacher_noise=0.0, student_noise=0.0)
    train, val = gather(data.batches("train")), gather(data.batches("val"))
    assert torch.bincount(gather(data.batches("val"), "target")).tolist() == [2] * 10
    digits = read_images(idx_file(published, "train", "images"))
    rows = torch.cat([train, val]).flatten(1)
    assert len(rows.unique(dim=0)) == len(digits)
    # A stroke turns a dark background bright: the student's digit is the teacher's.
    student = gather(data.batches("train"), "student")
    assert torch.equal(train > -1, student > 0)


def test_stratified_takes_remainders_from_the_largest() -> None:
    target = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    chosen = stratified(target, 7, seed=0)
    assert torch.bincount(target[chosen]).tolist() == [4, 2, 1]
    assert len(chosen.unique()) == 7
    assert len(stratified(target, 0, seed=0)) == 0
    assert torch.equal(chosen, stratified(target, 7, seed=0))
    assert not torch.equal(chosen, stratified(target, 7, seed=1))
    with pytest.raises(UserError, match="100 samples are to be held out, but there are only 100"):
        stratified(target, 100, seed=0)


def test_a_tenth_validates_by_default(make: Make) -> None:
    data = make(val_size=None)
    assert (data.num_train, data.split_size("val")) == (54, 6)
    assert data.fingerprint == make(val_size=6).fingerprint


def test_without_validation(make: Make) -> None:
    data = make(val_size=0)
    assert not data.has_validation
    assert data.val_dataloader() == []
    assert data.num_train == 60


def test_build_is_kept_and_reused(make: Make, tmp_path: Path) -> None:
    make().setup()
    files = sorted((tmp_path / "cache" / "mnist_m").glob("*.npy"))
    assert len(files) == 2
    times = [path.stat().st_mtime_ns for path in files]
    make(seed=9, teacher_noise=1.0).setup()
    assert [path.stat().st_mtime_ns for path in files] == times
    make(data_seed=1).setup()
    assert len(list((tmp_path / "cache" / "mnist_m").glob("*.npy"))) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"teacher_noise": 3.0},
        {"student_noise": 0.5},
        {"student_input": "rgb"},
        {"val_size": 10},
        {"data_seed": 1},
        {"seed": 1},
    ],
)
def test_fingerprint_changes_with_parameters(make: Make, change: dict[str, Any]) -> None:
    assert make(**change).fingerprint != make().fingerprint


def test_fingerprint_ignores_what_leaves_the_data_alone(make: Make, tmp_path: Path) -> None:
    assert make(batch_size=3, cache_dir=str(tmp_path / "b")).fingerprint == make().fingerprint
    clean = {"teacher_noise": 0.0, "student_noise": 0.0}
    assert make(seed=1, **clean).fingerprint == make(seed=2, **clean).fingerprint


def test_fingerprint_changes_with_files(make: Make, published: Path) -> None:
    before = make().fingerprint
    path = idx_file(published, "train", "images")
    images = read_images(path)
    images[0, 0, 0] ^= 1
    write_idx(path, images)
    digits = make().fingerprint
    Image.new("RGB", (60, 60)).save(published / PHOTO_FOLDER / "train" / "9.jpg")
    assert len({before, digits, make().fingerprint}) == 3


@pytest.mark.parametrize("folder", ["mnist", "bsds500", str(IDX_FOLDER), "."])
def test_marker_makes_the_source_simulated(make: Make, published: Path, folder: str) -> None:
    write_marker(published / folder, {})
    data = make()
    plain = data.fingerprint
    assert data.source == "simulated"
    (published / folder / MARKER).unlink()
    assert make().fingerprint != plain


def test_simulated_source_needs_no_root(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "simulated_train": 50,
        "simulated_test": 20,
        "val_size": 10,
        "batch_size": 8,
    }
    data = MNISTPairDataModule(
        root=str(tmp_path / "none"), source="simulated", cache_dir=str(tmp_path), **options
    )
    assert (data.num_train, data.split_size("test"), data.source) == (40, 20, "simulated")
    assert data.fingerprint


def test_missing_photographs(make: Make, published: Path) -> None:
    shutil.rmtree(published / PHOTO_FOLDER / "test")
    with pytest.raises(UserError, match=r"BSDS500 is missing: no \*\.jpg in .*test"):
        make().setup()


def test_validation_photographs_stand_in_for_missing_test_ones(make: Make, published: Path) -> None:
    folder = published / PHOTO_FOLDER
    before = gather(make().batches("test"), "student")
    (folder / "test").rename(folder / "val")
    assert torch.equal(gather(make().batches("test"), "student"), before)


def test_photograph_in_both_splits_is_refused(make: Make, published: Path) -> None:
    folder = published / PHOTO_FOLDER
    shutil.copy(folder / "train" / "0.jpg", folder / "test" / "new.jpg")
    with pytest.raises(UserError, match="1 training photographs are test photographs"):
        make().setup()


def test_label_file_of_another_length(make: Make, published: Path) -> None:
    path = idx_file(published, "train", "labels")
    write_idx(path, np.zeros(59, dtype=np.uint8))
    with pytest.raises(UserError, match=r"59 labels, but .*images-idx3.* has 60 images") as caught:
        make().setup()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_noise": -1.0}, "data.teacher_noise is -1.0"),
        ({"student_noise": float("nan")}, "data.student_noise is nan"),
        ({"val_size": -1}, "data.val_size is -1"),
        ({"student_input": "gray"}, "data.student_input is 'gray': choose one of grey, rgb"),
        ({"mnist_m": "x"}, "choose one of build, archive"),
        ({"source": "simulated", "mnist_m": "archive"}, "has no archive"),
    ],
)
def test_bad_parameters_are_named(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_links_to_nowhere_are_named(make: Make, published: Path, tmp_path: Path) -> None:
    photograph = published / PHOTO_FOLDER / "train" / "1.jpg"
    photograph.unlink()
    photograph.symlink_to(tmp_path / "annex")
    with pytest.raises(UserError, match=r"train/1\.jpg is missing"):
        make().setup()


@pytest.mark.parametrize("damage", [-1, 40, None])
def test_a_damaged_mnist_m_is_made_anew_and_that_is_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: int | None
) -> None:
    first = make()
    first.setup()
    [path] = (first.cache_dir / "mnist_m").glob("train-*.npy")
    whole = path.read_bytes()
    content = bytearray(whole)
    if damage is None:
        np.save(path, np.zeros((3, 1, 28, 28), np.uint8))
    else:
        content[damage] ^= 1
        path.write_bytes(content)
    make().setup()
    assert f"{path} is damaged" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_archive_pairs_by_index(make: Make, published: Path) -> None:
    write_archive(published, [i % 10 for i in range(30)], "train")
    write_archive(published, [i % 10 for i in range(10)], "test")
    options: dict[str, Any] = {"teacher_noise": 0.0, "student_noise": 0.0, "val_size": 0}
    data = make(mnist_m="archive", student_input="rgb", **options)
    assert (data.num_train, data.split_size("test")) == (30, 10)
    student = gather(data.batches("train"), "student")
    assert torch.allclose(student[:, 0, 0, 0] * 0.5 + 0.5, torch.arange(30) / 255, atol=1e-6)
    whole = make(**options)
    teacher = gather(whole.batches("train"))[:30]
    assert torch.equal(gather(data.batches("train")), teacher)
    assert data.fingerprint != make(student_input="rgb", **options).fingerprint


def test_archive_with_other_labels_or_images_is_refused(make: Make, published: Path) -> None:
    write_archive(published, [i % 10 for i in range(30)], "train")
    write_archive(published, [i % 10 for i in range(10)], "test")
    labels = published / ARCHIVE_FOLDER / "mnist_m_train_labels.txt"
    labels.write_text(labels.read_text().replace("00000003.png 3", "00000003.png 4"))
    with pytest.raises(UserError, match=r"image 3 has another label .* these are not pairs"):
        make(mnist_m="archive").setup()
    labels.write_text(labels.read_text().replace("00000003.png 4", "00000003.png 3"))
    (labels.parent / "mnist_m_train" / "00000007.png").unlink()
    with pytest.raises(UserError, match=r"00000007\.png is missing"):
        make(mnist_m="archive").setup()


def real(data_root: Path, folder: Path) -> Path:
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder} in {data_root}")
    return data_root


def test_real_files_are_the_published_ones(data_root: Path) -> None:
    root = real(data_root, IDX_FOLDER)
    for split, count in IDX_COUNT.items():
        images, labels = idx_file(root, split, "images"), idx_file(root, split, "labels")
        assert len(read_images(images)) == len(read_labels(labels)) == count
        for path in (images, labels):
            if path.suffix == ".gz":
                assert file_digest(path) == IDX_MD5[path.name]


def test_real_data_module(data_root: Path, tmp_path: Path) -> None:
    root = real(data_root, PHOTO_FOLDER)
    data = MNISTPairDataModule(root=str(root), cache_dir=str(tmp_path))
    sizes = (data.num_train, data.split_size("val"), data.split_size("test"))
    assert (sizes, data.source) == ((54_000, 6_000, 10_000), "real")
    shares = torch.bincount(gather(data.batches("val"), "target")) / 6000
    published = np.bincount(read_labels(idx_file(root, "train", "labels"))) / 60_000
    assert np.abs(shares.numpy() - published).max() < 1 / 6000


def test_real_archive_pairs_with_mnist(data_root: Path, tmp_path: Path) -> None:
    data = MNISTPairDataModule(
        root=str(real(data_root, ARCHIVE_FOLDER)),
        mnist_m="archive",
        val_size=0,
        cache_dir=str(tmp_path),
        teacher_noise=0.0,
        student_noise=0.0,
        student_input="rgb",
    )
    assert data.num_train >= 200
    # Strokes have sharp edges in MNIST-M: brightness must jump where the teacher's digit ends.
    teacher, student = gather(data.batches("train")), gather(data.batches("train"), "student")
    edge = (teacher[..., 1:] > -1) != (teacher[..., :-1] > -1)
    jump = (student[..., 1:] - student[..., :-1]).abs().mean(1, keepdim=True)
    assert jump[edge].mean() > 3 * jump[~edge].mean()


def test_fewer_digits(make: Make) -> None:
    data = make(classes=3, val_size=6, student_noise=0.0, teacher_noise=0.0)
    every = make(student_noise=0.0, teacher_noise=0.0)
    assert data.num_classes == 3
    for split in ("train", "val", "test"):
        assert set(gather(data.batches(split), "target").tolist()) == {0, 1, 2}
    target = gather(every.batches("test"), "target")
    kept = gather(every.batches("test"))[target < 3]
    assert torch.equal(gather(data.batches("test")), kept)
    assert data.fingerprint != every.fingerprint
    with pytest.raises(UserError, match=r"data\.classes is 11"):
        make(classes=11)


def test_unimodal(make: Make) -> None:
    batch = next(make(unimodal=True).batches("train", epoch=3))
    assert torch.equal(batch["teacher"], batch["student"])
    assert torch.equal(batch["student"], next(make().batches("train", epoch=3))["student"])
