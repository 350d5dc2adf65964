from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ntdh_bench.batch import PairedBatch
from ntdh_bench.datamodules import RAVDESSDataModule
from ntdh_bench.datamodules.paired import Modality, Request
from ntdh_bench.datamodules.ravdess.clips import ClipPairs
from ntdh_bench.datamodules.ravdess.simulate import write_simulated
from ntdh_bench.datasets import MARKER
from ntdh_bench.errors import UserError

from .conftest import NAMES, write_features

Make = Callable[..., RAVDESSDataModule]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each actor, in the published layout, without the features."""
    root = tmp_path_factory.mktemp("generated")
    write_simulated(root, clips=2)
    shutil.rmtree(root / "ravdess" / "features")
    return root


@pytest.fixture
def copy(generated: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged, without the marker: as if it were real."""
    shutil.copytree(generated, tmp_path / "copy")
    for marker in (tmp_path / "copy").rglob(MARKER):
        marker.unlink()
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def clips(generated: Path, cache: Path) -> Make:
    def make(**changes: Any) -> RAVDESSDataModule:
        settings: dict[str, Any] = {
            "root": str(generated), "cache_dir": str(cache), "batch_size": 4, "jobs": 1,
            "image_height": 32, "image_width": 64,
        }  # fmt: skip
        return RAVDESSDataModule(**{**settings, **changes})

    return make


@pytest.fixture
def features(tmp_path: Path) -> Make:
    root = tmp_path / "data"
    write_features(root / "ravdess" / "features" / "f.npz")

    def make(**changes: Any) -> RAVDESSDataModule:
        settings: dict[str, Any] = {"root": str(root), "view": "features", "batch_size": 4}
        return RAVDESSDataModule(**{**settings, **changes})

    return make


def first(data: RAVDESSDataModule) -> PairedBatch:
    return next(data.batches("train"))


def tensors(data: RAVDESSDataModule) -> tuple[Tensor, Tensor]:
    """The whole training split."""
    batch = next(data.batches("train", batch_size=10_000))
    assert isinstance(batch["teacher"], Tensor)
    assert isinstance(batch["student"], Tensor)
    return batch["teacher"], batch["student"]


# -- features ------------------------------------------------------------------------------------


def test_features_are_standardised_over_training_clips(features: Make) -> None:
    data = features()
    audio, face = tensors(data)
    assert audio.shape == (data.num_train, 6)
    assert face.shape == (data.num_train, 4)
    for values in (audio, face):
        assert torch.allclose(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5)
        assert torch.allclose(values.std(0, correction=0), torch.ones(values.shape[1]), atol=1e-5)
    assert data.source == "real"
    assert data.num_classes == 8
    assert data.cacheable("train")


def test_splits_of_features(features: Make) -> None:
    by_actor, at_random = features(), features(split="random")
    assert [by_actor.split_size(s) for s in ("train", "val", "test")] == [256, 64, 64]
    assert [at_random.split_size(s) for s in ("train", "val", "test")] == [269, 38, 77]
    assert first(by_actor)["target"].tolist() == [int(name[6:8]) - 1 for name in NAMES[:4]]
    assert by_actor.fingerprint == features(seed=3).fingerprint
    others = [at_random, features(split="random", data_seed=1)]
    assert len({by_actor.fingerprint, *(data.fingerprint for data in others)}) == 3


def test_the_root_may_be_the_folder_itself(features: Make, tmp_path: Path) -> None:
    inside = features(root=str(tmp_path / "data" / "ravdess"))
    assert inside.fingerprint == features().fingerprint


def test_which_file_of_features(features: Make, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ravdess" / "features"
    other = write_features(folder / "g.npz", face_x=np.ones((len(NAMES), 9)))
    with pytest.raises(UserError, match=r"2 \.npz files; name one with --data\.features"):
        features().setup()
    assert tensors(features(features=str(other)))[1].shape[1] == 9
    (folder / MARKER).write_text("{}")
    marked = features(features=str(other))
    marked.setup()
    assert marked.source == "simulated"


def test_unimodal_gives_the_teacher_the_faces(features: Make) -> None:
    audio, face = tensors(features(unimodal=True))
    assert audio.equal(face)


def test_tables_of_the_publisher_are_pooled(clips: Make) -> None:
    data = clips(view="features")
    audio, face = tensors(data)
    assert audio.shape == (32, 160)
    assert face.shape == (32, 35)
    assert data.source == "simulated"


# -- clips ---------------------------------------------------------------------------------------


def test_clips(clips: Make) -> None:
    data = clips()
    audio, face = tensors(data)
    assert audio.shape == (32, 1, 40, 256)
    assert face.shape == (32, 3, 32, 64)
    assert audio.dtype == face.dtype == torch.float32
    assert [data.split_size(s) for s in ("train", "val", "test")] == [32, 8, 8]
    assert data.source == "simulated"
    assert data.cacheable("train")
    assert data.fingerprint == clips(seed=5).fingerprint


def test_what_changes_the_data_changes_the_fingerprint(clips: Make) -> None:
    variants = [{}, {"split": "random"}, {"image_width": 96}, {"spec_augment": True}, {"frames": 2}]
    found = {clips(**changes).fingerprint for changes in variants}
    assert len(found) == len(variants)
    assert clips(frames=2, seed=1).fingerprint not in found


def test_only_training_is_augmented(clips: Make) -> None:
    data = clips(image_augment=True, spec_augment=True, frames=2)
    data.setup()
    train, test = data.splits["train"], data.splits["test"]
    assert isinstance(train, ClipPairs)
    assert isinstance(test, ClipPairs)
    assert train.spec_augment
    assert train.image_augment
    assert train.draws_frames
    assert not any([test.spec_augment, test.image_augment, test.draws_frames])
    assert not data.cacheable("train")
    assert data.cacheable("test")
    assert clips(image_augment=True).cacheable("train")
    assert not clips(image_augment=True, unimodal=True).cacheable("train")


def test_files_without_a_partner_or_damaged_are_named(copy: Path, clips: Make) -> None:
    def damaged(**changes: Any) -> RAVDESSDataModule:
        return clips(root=str(copy), cache_dir=str(copy / "cache"), **changes)

    videos = sorted(copy.rglob("*.mp4"))
    videos[0].unlink()
    videos[1].write_bytes(videos[1].read_bytes()[:300])
    with pytest.raises(UserError, match="2 files are damaged, misnamed or unpaired") as caught:
        damaged().setup()
    assert videos[1].name in str(caught.value)
    tolerant = damaged(tolerance=2)
    assert sum(tolerant.split_size(split) for split in ("train", "val", "test")) == 46
    assert tolerant.source == "real"


def test_misnamed_files_count(copy: Path, clips: Make) -> None:
    wav = next(copy.rglob("*.wav"))
    shutil.copy(wav, wav.with_name("03-01-09-01-01-01-01.wav"))
    with pytest.raises(UserError, match=r"1 files are damaged.*03-01-09-01-01-01-01"):
        clips(root=str(copy)).setup()


def test_one_modality_needs_no_files_of_the_other(copy: Path, clips: Make) -> None:
    def alone(modality: Modality, **changes: Any) -> RAVDESSDataModule:
        data = clips(root=str(copy), cache_dir=str(copy / "cache"), **changes)
        data.modality = modality
        return data

    both = clips(root=str(copy), cache_dir=str(copy / "cache"))
    speech = tensors(both)[0]
    for video in copy.rglob("*.mp4"):
        video.unlink()
    audio, nothing = tensors(alone("teacher"))
    assert audio.equal(speech)
    assert nothing.shape == (32, 0)
    assert alone("teacher").fingerprint != both.fingerprint
    with pytest.raises(UserError, match="no video clips"):
        alone("student").setup()
    with pytest.raises(UserError, match="no video clips"):
        alone("teacher", unimodal=True).setup()  # the teacher is given the faces
    functionals, nothing = tensors(alone("teacher", view="features", split="random"))
    assert (functionals.shape[1], nothing.shape[1]) == (160, 0)


def test_unimodal_needs_no_speech(copy: Path, clips: Make) -> None:
    for wav in copy.rglob("*.wav"):
        wav.unlink()
    teacher, faces = tensors(clips(root=str(copy), cache_dir=str(copy / "cache"), unimodal=True))
    assert teacher.equal(faces)


def test_worker_processes_are_sent_paths_only(clips: Make) -> None:
    data = clips()
    data.setup()
    train = data.splits["train"]
    sent = pickle.dumps(train)
    assert len(sent) < 10_000
    request = Request(0, torch.arange(4))
    for name in ("teacher", "student"):
        received: Any = pickle.loads(sent)[request][name]
        assert received.equal(train[request][name])  # type: ignore[literal-required]


def test_clips_without_videos(copy: Path, clips: Make) -> None:
    for video in copy.rglob("*.mp4"):
        video.unlink()
    expected = rf"no video clips; expected {copy}/ravdess/Audio_.*prepare ravdess --root {copy}`"
    with pytest.raises(UserError, match=expected):
        clips(root=str(copy)).setup()


def test_simulated_source(tmp_path: Path, clips: Make) -> None:
    data = clips(root=None, source="simulated", simulated_clips=1, cache_dir=str(tmp_path))
    assert data.split_size("test") == 4
    assert data.source == "simulated"
    vectors = clips(
        root=None, source="simulated", simulated_clips=1, cache_dir=str(tmp_path), view="features"
    )
    audio, face = tensors(vectors)
    assert (audio.shape[1], face.shape[1]) == (259, 35)  # those of the public features


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view": "frames"}, "data.view is 'frames'"),
        ({"split": "sex"}, "data.split is 'sex'"),
        ({"backend": "numpy"}, "data.backend is 'numpy'"),
        ({"frames": 0}, "data.frames is 0"),
        ({"image_height": 8}, "data.image_height is 8"),
        ({"tolerance": -1}, "data.tolerance is -1"),
        ({"simulated_clips": 61}, "data.simulated_clips is 61"),
        ({"features": "x.npz"}, "needs data.view features"),
    ],
)
def test_arguments_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RAVDESSDataModule(**changes)
