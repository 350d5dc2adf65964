"""Every reader of files, with a sound file, ways to damage it, and what it must never accept."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ntdh_bench.cache import build_once, digest
from ntdh_bench.checkpoints import read_checkpoint, read_weights
from ntdh_bench.composition import read_config
from ntdh_bench.datamodules.mnist.idx import read_images, read_labels, write_idx
from ntdh_bench.datamodules.mnist.mnist_m import archive_files, read_image
from ntdh_bench.datamodules.mnist.prepare import unpack_photographs
from ntdh_bench.datamodules.nyuv2.camera import IMAGE_SIZE, read_depth, write_depth
from ntdh_bench.datamodules.nyuv2.matfile import LabelledMat, read_class_map, read_split
from ntdh_bench.datamodules.nyuv2.packed import read_packed
from ntdh_bench.datamodules.nyuv2.pairs import PreparedFolder, prepared_pairs
from ntdh_bench.datamodules.nyuv2.scenes import read_rgb
from ntdh_bench.datamodules.nyuv2.voxels import GRID, read_voxels, write_voxels
from ntdh_bench.datamodules.pairs import (
    av_mnist,
    avletters,
    bdgp,
    houston_hsi_lidar,
    lis_emg_imu,
    seglearn_watch,
    sp_sw_har,
    utd_mhad,
    wiki,
)
from ntdh_bench.datamodules.pairs.arrays import PairedArrays
from ntdh_bench.datamodules.ravdess import media
from ntdh_bench.datamodules.ravdess.features import read_features
from ntdh_bench.datamodules.ravdess.layout import find_clips
from ntdh_bench.datamodules.ravdess.prepare import _parse_record
from ntdh_bench.datamodules.ravdess.store import prepared as prepared_clips
from ntdh_bench.datamodules.semantickitti import reader as kitti
from ntdh_bench.datamodules.semantickitti.store import prepared as prepared_sequences
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.experiments import load_experiment
from ntdh_bench.masks.saliency import Saliency
from ntdh_bench.people.votes import read_votes
from ntdh_bench.pictures.file import FILE, MAX_SAMPLES, read_pictures, write_pictures
from ntdh_bench.records.files import read_run, write_record
from ntdh_bench.records.identity import Place
from ntdh_bench.records.rows import read_rows, to_row, write_rows
from ntdh_bench.report import evidence
from ntdh_bench.report.check import check
from ntdh_bench.show.events import read_curves
from ntdh_bench.sweep.store import Store
from ntdh_bench.sweep.transfer import export_records, import_records
from tests.datamodules.nyuv2 import files as nyu_files
from tests.datamodules.pairs import layouts
from tests.datamodules.ravdess import files as ravdess_files
from tests.datamodules.semantickitti import files as kitti_files
from tests.fuzz import mutations as m
from tests.helpers import network
from tests.ntdh_bench.people.files import write_votes
from tests.ntdh_bench.pictures.made import made_pictures
from tests.ntdh_bench.report.rows import RUN, make_record

SIDE = 28
CLIP = ravdess_files.CLIPS[0]


def _anything(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        name: what it reads.
        write: writes sound files into an empty folder; returns the one that is damaged.
        read: reads what ``write`` wrote, given the path that it returned.
        mutate: damages the file.
        valid: whether what was read may be accepted.
        rebuilt: a cache: it is never an error, and what is read is what it was.
        share: of the usual number of mutations; slow readers get fewer.
        named: keys of the file that an error may name.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    mutate: m.Mutation = m.damaged
    valid: Callable[[Any], bool] = _anything
    rebuilt: bool = False
    share: float = 1.0
    named: tuple[str, ...] = ()

    @property
    def text(self) -> bool:
        """Whether the file is text, of which nothing may be quoted."""
        return self.mutate in (m.text, m.json_values)


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


# -- images --------------------------------------------------------------------------------------


def _image(
    name: str, shape: tuple[int, ...], kind: str = "u1", step: int = 1
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        values = (_random().integers(0, 40, shape) // step * step).astype(kind)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
        return path

    return write


def _is_bytes(shape: tuple[int, ...] | None = None) -> Callable[[Any], bool]:
    def valid(value: Any) -> bool:
        return value.dtype == np.uint8 and (shape is None or value.shape == shape)

    return valid


# -- MNIST ---------------------------------------------------------------------------------------


def _idx(name: str, labels: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        shape = (30,) if labels else (30, SIDE, SIDE)
        path = folder / f"{name}.gz"
        write_idx(path, _random().integers(0, 10, shape, dtype=np.uint8))
        if name.endswith("gz"):
            return path
        plain = folder / name
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        return plain

    return write


def _mnist_m_labels(folder: Path) -> Path:
    path = folder / "mnist_m_archive" / "mnist_m" / "mnist_m_test_labels.txt"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{number:08d}.png {number % 10}\n" for number in range(20)))
    return path


def _listed(path: Path) -> Any:
    return archive_files(path.parents[2], "test")


def _photographs(folder: Path) -> Path:
    path = folder / "BSR_bsds500.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(5):
            content = io.BytesIO()
            Image.fromarray(_random().integers(0, 255, (9, 9, 3), np.uint8)).save(content, "JPEG")
            name = f"BSR/BSDS500/data/images/train/{number}.jpg"
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            tar.addfile(member, io.BytesIO(content.getvalue()))
    return path


def _unpack(path: Path) -> Any:
    unpack_photographs(path, path.parent / "out")
    return [found for found in path.parent.parent.rglob("*") if found.suffix == ".jpg"]


# -- RAVDESS -------------------------------------------------------------------------------------


def _wav(folder: Path) -> Path:
    path = folder / "x.wav"
    path.write_bytes(ravdess_files.wav_bytes(seconds=0.1, rate=22_050))
    return path


def _mp4(folder: Path) -> Path:
    path = folder / "x.mp4"
    path.write_bytes(ravdess_files.mp4_bytes(count=6))
    return path


def _of_content(decode: Callable[[bytes], Any]) -> Callable[[Path], Any]:
    """Read as the stores do: a decoder names no file, its caller does."""

    def read(path: Path) -> Any:
        try:
            return decode(path.read_bytes())
        except UserError as error:
            raise FileError(f"{path}: {error}") from None

    return read


def _finite(value: Any) -> bool:
    return bool(np.isfinite(value).all()) and value.size > 0


def _units(value: Any) -> bool:
    return bool(((value >= 0) & (value <= [5.0] * 17 + [1.0] * 18)).all())


def _zip(folder: Path) -> Path:
    ravdess_files.write_wavs(folder / "files", [CLIP])
    return ravdess_files.zipped(
        folder / "files" / "Audio_Speech_Actors_01-24",
        folder / "ravdess" / "Audio_Speech_Actors_01-24.zip",
    )


def _read_zip(path: Path) -> Any:
    listing = find_clips(path.parent, "audio")
    contents = [clip.read(1 << 20) for clip in listing.files.values()]
    if listing.faults:
        raise FileError(f"{path.parent}/{listing.faults[0]}")
    return contents


def _features(folder: Path) -> Path:
    path = folder / "x.npz"
    names = np.array([f"03-{clip}" for clip in ravdess_files.CLIPS])
    values = _random().normal(size=(len(names), 5)).astype(np.float32)
    np.savez(path, name=names, audio_x=values, face_x=values[:, :3])
    return path


def _is_table(table: Any) -> bool:
    arrays = (table.audio, table.face)
    shaped = all(a.ndim == 2 and a.shape[1] and len(a) == len(table.names) for a in arrays)
    return bool(table.names) and shaped and all(np.isfinite(a).all() for a in arrays)


def _remote(folder: Path) -> Path:
    path = folder / ".zenodo-1.json"
    entry = {"key": "a.zip", "size": 5, "checksum": "md5:" + "0" * 32,
             "links": {"self": "https://zenodo.org/a"}}  # fmt: skip
    path.write_text(json.dumps({"files": [entry, {**entry, "key": "b.zip"}]}))
    return path


def _clips(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        ravdess_files.write_wavs(folder / "ravdess", ravdess_files.CLIPS[:2])
        store = prepared_clips(folder / "ravdess", "audio", folder / "cache", jobs=1)
        return store.folder / name

    return write


def _read_clips(path: Path) -> Any:
    root = path.parents[3]
    store = prepared_clips(root / "ravdess", "audio", root / "cache", jobs=1)
    return store.names, np.array(store.values).tobytes(), store.digest


def _log(folder: Path) -> Path:
    """A build that was killed: rows and log of a part."""
    path = _clips("meta.json")(folder)
    first = json.loads(path.read_text())["entries"][0]
    partial = path.parent.with_name(f".{path.parent.name}.partial")
    path.parent.rename(partial)
    log = partial / "done.jsonl"
    log.write_text(f"{json.dumps(first)}\n")
    return log


def _read_log(path: Path) -> Any:
    names, values, _ = _read_clips(path)
    return names, values  # the digest follows the hashes in the log, which are made up


# -- pairs ---------------------------------------------------------------------------------------


def _paired(classes: int, **sides: int) -> PairedArrays:
    """Return few arrays of the sides of a set, two rows a class."""
    target = np.repeat(np.arange(classes), 2)
    arrays = {
        name: _random().random((len(target), side)).astype(np.float32)
        for name, side in sides.items()
    }
    return PairedArrays(arrays, target, np.resize(np.array([0, 1], np.int8), len(target)))


def _wiki(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        layouts.write_wiki(folder, _paired(10, image=128, text=10))
        return folder / name

    return write


def _houston(folder: Path) -> Path:
    layouts.write_houston(folder, _paired(15, hsi=144, lidar=21))
    return folder / "LiDAR_TrSet.mat"


def _bdgp(folder: Path) -> Path:
    arrays = _paired(5, visual=1750, text=79)
    cells = np.empty((1, 2), object)
    cells[0] = list(arrays.modalities.values())
    scipy.io.savemat(folder / "BDGP.mat", {"data": cells, "truth": arrays.target[:, None]})
    return folder / "BDGP.mat"


def _are_paired(arrays: PairedArrays) -> bool:
    return arrays.fault() is None and all(np.isfinite(a).all() for a in arrays.modalities.values())


def _lips(folder: Path) -> Path:
    path = folder / "A1_Anya-lips.mat"
    layouts.write_lips(path, _random().integers(0, 256, (2, 60, 80), dtype=np.uint8))
    return path


def _are_lips(frames: Any) -> bool:
    return frames.shape[1:] == (60, 80) and 0 <= frames.min() <= frames.max() <= 255


def _htk(folder: Path) -> Path:
    path = folder / "A1_Anya.mfcc"
    layouts.write_htk(path, _random().normal(size=(9, 26)))
    return path


def _sign(folder: Path) -> Path:
    path = folder / "x.json"
    values = _random().integers(0, 9, (40, 18))
    content = layouts.sign(values[:, :8], values[:, 8:], datetime(2020, 6, 26))
    path.write_text(json.dumps(content))
    return path


def _is_sign(sign: Any) -> bool:
    return bool(np.isfinite(sign.emg).all() and np.isfinite(sign.imu).all())


def _mhad(kind: str, variable: str, values: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / f"a1_s1_t1_{kind}.mat"
        scipy.io.savemat(path, {variable: values}, do_compression=kind == "depth")
        return path

    return write


def _motion_map(path: Path) -> Any:
    return utd_mhad._motion_map(utd_mhad._depth(path))


def _watch(folder: Path) -> Path:
    random = _random()
    rows = [f"{','.join(map(str, random.normal(size=6)))},{10 * t},WALKING" for t in range(300)]
    path = folder / "s01_01_sp.csv"
    path.write_text("\n".join(["x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label", *rows]))
    path.with_name("s01_01_sw.csv").write_text(path.read_text())
    return path


def _are_windows(windows: Any) -> bool:
    shaped = windows.phone.shape == windows.watch.shape == (len(windows.activity), 32, 6)
    return shaped and all(np.isfinite(part).all() for part in windows)


def _seglearn(folder: Path) -> Path:
    subject, exercise = (part.ravel() for part in np.mgrid[1:11, :7])
    series = [_random().normal(size=(110, 6)) for _ in subject]
    value = {"X": series, "y": exercise, "subject": subject}
    path = folder / "watch_dataset.npy"
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    content = pickle.dumps(np.array(value, dtype=object), protocol=2)
    path.write_bytes(header.ljust(127) + b"\n" + content)
    return path


def _seglearn_wheel(folder: Path) -> Path:
    inside = _seglearn(folder)
    path = folder / "seglearn-1.2.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inside, "seglearn/data/watch_dataset.npy")
    inside.unlink()
    return path


def _digit(folder: Path) -> Path:
    path = folder / "7_theo_12.wav"
    path.write_bytes(ravdess_files.wav_bytes(seconds=0.1, rate=8000))
    return path


# -- SemanticKITTI -------------------------------------------------------------------------------


def _street(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        sequence = folder / "semantickitti" / "sequences" / "00"
        return kitti_files.write_sequence(sequence, 1, 0, points=300) / name

    return write


def _is_projection(matrix: Any) -> bool:
    return matrix.shape == (3, 4) and bool(np.isfinite(matrix).all() and np.abs(matrix).max() > 0)


def _sequence(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        kitti_files.write_street(folder, [(0, 2)])
        found = prepared_sequences(folder / "semantickitti" / "sequences", [0], folder / "cache")
        return found[0].folder / name

    return write


def _read_sequence(path: Path) -> Any:
    root = path.parents[3]
    found = prepared_sequences(root / "semantickitti" / "sequences", [0], root / "cache")[0]
    seen = found.shown(0, 0, kitti_files.SIZE[0])
    return found.digest, found.names, found["images"][1].tobytes(), [a.tobytes() for a in seen]


# -- NYU Depth V2 --------------------------------------------------------------------------------


def _mat(name: str) -> Callable[[Path], Path]:
    return lambda folder: nyu_files.write_mat(folder / "nyuv2") / name


def _read_mat(path: Path) -> Any:
    source = LabelledMat(path.parent)
    return [source.read(index) for part in source.split.values() for index in part]


def _are_pairs(pairs: Any) -> bool:
    shapes = {(p.rgb.shape[:2], p.depth.shape, p.label.shape) for p in pairs}
    return len(shapes) == 1 and all(p.label.max() <= 40 for p in pairs)


def _pairs(name: str) -> Callable[[Path], Path]:
    return lambda folder: nyu_files.write_prepared(folder) / name


def _read_pairs(path: Path) -> Any:
    folder = next(above for above in path.parents if above.name == "prepared")
    source = PreparedFolder(folder)
    return [source.read(index) for part in source.split.values() for index in part]


def _volume(folder: Path) -> Path:
    labels = np.zeros(GRID, np.uint8)
    labels[:, :2] = 2
    pose = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    write_voxels(folder / "NYU0001_0000.bin", np.array([-2.4, 0, -0.05]), pose, labels)
    return folder / "NYU0001_0000.bin"


def _is_volume(volume: Any) -> bool:
    sound = np.isfinite(volume.pose).all() and np.isfinite(volume.origin).all()
    return bool(sound and volume.lengths.sum() == np.prod(GRID))


def _depth(folder: Path) -> Path:
    path = folder / "NYU0001_0000.png"
    write_depth(path, _random().integers(0, 9000, IMAGE_SIZE).astype(np.uint16) // 500 * 500)
    return path


def _packed(folder: Path) -> Path:
    path = folder / "NYU0001_0000.npz"
    coarse = tuple(side // 4 for side in GRID)
    np.savez_compressed(
        path,
        rgb=np.zeros((3, *IMAGE_SIZE), np.float32),
        depth=np.full(IMAGE_SIZE, 2, np.float32),
        position=np.ones(IMAGE_SIZE, np.int64),
        target_lr=np.zeros(coarse, np.int64),
        tsdf_lr=np.ones(coarse, np.float32),
    )
    return path


def _is_sample(sample: Any) -> bool:
    return bool(sample["position"].max() < np.prod(GRID) and sample["depth"].max() < 65_000)


def _pair_store(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nyu_files.write_prepared(folder)
        return prepared_pairs(folder, folder / "cache", "train", size=(6, 8)).folder / name

    return write


def _read_pair_store(path: Path) -> Any:
    root = path.parents[3]
    found = prepared_pairs(root, root / "cache", "train", size=(6, 8))
    return found.digest, found.names, [found[kind].tobytes() for kind in ("rgb", "depth", "label")]


# -- the engine ----------------------------------------------------------------------------------


def _checkpoint(folder: Path) -> Path:
    path = folder / "x.ckpt"
    state = {f"teacher.{name}": value for name, value in network().state_dict().items()}
    torch.save(
        {
            "state_dict": state, "epoch": 1, "global_step": 3, "callbacks": {"Curves": {}},
            "identity": {"seed": 0, "mask": None}, "checkpoints": {"last": "last.ckpt"},
            "optimizer_states": [], "lr_schedulers": [], "loops": {}, "teacher_hash": "a",
            "pytorch-lightning_version": "2.6.0",
        },
        path,
    )  # fmt: skip
    return path


def _are_weights(checkpoint: Any) -> bool:
    weights = checkpoint["state_dict"].values()
    sound = all(isinstance(w, torch.Tensor) and torch.isfinite(w).all() for w in weights)
    return sound and isinstance(checkpoint.get("identity") or {}, dict)


def _weights(folder: Path) -> Path:
    path = folder / "x.pth"
    torch.save(network().state_dict(), path)
    return path


def _saliency(folder: Path) -> Path:
    path = folder / "x.npz"
    values = torch.linspace(-0.1, 0.2, 9, dtype=torch.float64)
    Saliency(values, 0.3, "hidden1", 5, 0, 100).save(path)
    return path


def _is_saliency(saliency: Any) -> bool:
    return bool(torch.isfinite(saliency.values).all()) and 0 <= saliency.unmasked <= 0.7


def _pictures(folder: Path) -> Path:
    write_pictures(folder, made_pictures())
    return folder / FILE


def _is_pictures(found: Any) -> bool:
    return found.samples() <= MAX_SAMPLES and all(
        values.shape == (len(found.classes),) * 2 and (values >= 0).all()
        for values in found.confusion.values()
    )


def _events(folder: Path) -> Path:
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
    (path,) = (folder / "tensorboard").iterdir()
    return path


def _is_curves(found: Any) -> bool:
    return all(np.isfinite(curve.values).all() for curve in found.values())


def _record(folder: Path) -> Path:
    path = folder / "record.json"
    write_record(path, make_record())
    return path


def _read_record(path: Path) -> Any:
    return to_row(read_run(path, RUN), Place("x", "y"))


def _is_row(row: Any) -> bool:
    within = [
        0 <= value <= 1
        for name, value in row.items()
        if value is not None and name.endswith(("accuracy", "miou"))
    ]
    bounded = [
        -1e-6 <= value <= 0.70
        for name, value in row.items()
        if value is not None and name.endswith(("ncjsd", "tcjsd"))
    ]
    counts = [row[name] is None or row[name] >= 0 for name in ("epochs", "seconds", "seed")]
    return all(within) and all(bounded) and all(counts)


def _rows(folder: Path) -> Path:
    path = folder / "records" / "mine.csv"
    path.parent.mkdir()
    row = to_row(make_record(), Place("mine", "p"))
    write_rows(path, [row, {**row, "seed": 1, "run": "1" * 16}])
    return path


def _read_rows(path: Path) -> Any:
    collected = read_rows(path)
    too_long = [problem for problem in collected.problems if len(problem) > 400]
    assert not too_long, too_long
    return collected.rows


def _curves(folder: Path) -> Path:
    _rows(folder)
    path = folder / "records" / "mine_curves.csv"
    lines = [f"{'1' * 16},{epoch},ncjsd,0.{epoch}" for epoch in range(5)]
    path.write_text("\n".join(["run,epoch,metric,value", *lines, ""]))
    return path


def _maps(folder: Path) -> Path:
    _rows(folder)
    path = folder / "records" / "mine_maps.csv"
    lines = [f"{'1' * 16},random,{y},{x},0.5" for y in range(3) for x in range(3)]
    path.write_text("\n".join(["run,removes,y,x,value", *lines, ""]))
    return path


def _read_evidence(path: Path) -> Any:
    found = evidence.read(path.parents[1])
    rows = found.rows["mine"]
    assert len(rows) == 2
    return (
        evidence.curves(path.parents[1], "mine", rows),
        evidence.maps(path.parents[1], "mine", rows),
    )


def _manifest(folder: Path) -> Path:
    path = folder / "manifest.json"
    output = {"sha256": "0" * 64, "inputs": ["records/mine.csv"]}
    path.write_text(
        json.dumps({"inputs": {"records/mine.csv": "0"}, "outputs": {"tables/x.md": output},
                    "unlisted_records": []})
    )  # fmt: skip
    return path


def _read_manifest(path: Path) -> Any:
    return check(path.parent, path.parent / "none")


_SWEEP = """
title: A sweep
requires: synthetic
base: base.yaml
protocols: {one: {seeds: 2, overrides: {trainer.max_epochs: 3}}, two: {seeds: [3, 4]}}
keep: [curves]
grids:
  - overrides: {model.init_args.lam: 0.5}
    axes:
      model.init_args.distiller.init_args.temperature: [1.0, 4.0]
      method: {KD: {}, other: {model.init_args.lam: 0.1}}
    exclude:
      - {method: KD, model.init_args.distiller.init_args.temperature: 1.0}
"""


def _sweep(folder: Path) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump({"model": {"class_path": "D"}}))
    (folder / "secret.txt").write_text("secret-of-another-file")
    path = folder / "mine.yaml"
    path.write_text(_SWEEP)
    return path


def _read_sweep(path: Path) -> Any:
    return load_experiment(path).runs


_MEMBERS = [f"{number:016x}" for number in range(4)]


def _stack(folder: Path) -> Path:
    store = Store(folder)
    store.prepare()
    name = digest(_MEMBERS)
    store.begin_stack(name, _MEMBERS)
    (store.stack(name) / "students.ckpt").touch()
    return store.stack(name) / "runs.json"


def _read_stack(path: Path) -> Any:
    return Store(path.parents[2]).unfinished_stacks()


def _export(folder: Path) -> Path:
    store = Store(folder / "runs")
    runs = load_experiment(_sweep(folder)).runs
    for run in runs:
        record = make_record(run=run.hash, curves={"val/accuracy": [0.5, 0.25]})
        write_record(store.record(run.hash), record)
    path = folder / "export.zip"
    export_records([run.hash for run in runs], store, ["curves"], path)
    return path


def _read_export(path: Path) -> Any:
    experiment = load_experiment(path.parent / "mine.yaml")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.prepare()
        import_records(path, experiment, store, Path(folder) / "results")
        names = {store.record(run.hash).name for run in experiment.runs}
        records = list((Path(folder) / "records").iterdir())
        assert {record.name for record in records} <= names
        return [to_row(read_run(file, file.stem, ["curves"]), Place("x", "y")) for file in records]


def _config(folder: Path) -> Path:
    path = folder / "config.yaml"
    (folder / "base.yaml").write_text(yaml.safe_dump({"model": {"class_path": "D"}}))
    content = {"base": ["base.yaml"], "model": {"init_args": {"lam": 0.5}}}
    path.write_text(yaml.safe_dump(content))
    return path


def _cached(folder: Path) -> Path:
    path = folder / "cache" / "x.txt"
    build_once(path, lambda target: target.write_text("what was built, once") and None)
    return path


def _seal(folder: Path) -> Path:
    return _cached(folder).with_name("x.txt.sha256.json")


def _read_cached(path: Path) -> Any:
    target = path.parent / "x.txt"
    build_once(target, lambda place: place.write_text("what was built, once") and None)
    return target.read_text()


READERS = (
    Reader("mnist_images_gz", _idx("a-gz", False), read_images, m.gzipped(m.damaged),
           _is_bytes()),
    Reader("mnist_images", _idx("a", False), read_images, valid=_is_bytes()),
    Reader("mnist_labels_gz", _idx("a-gz", True), read_labels, m.gzipped(m.damaged),
           lambda v: v.size == 0 or v.max() < 10),
    Reader("mnist_labels", _idx("a", True), read_labels,
           valid=lambda v: v.size == 0 or v.max() < 10),
    Reader("mnist_m_png", _image("x.png", (32, 32, 3)), lambda p: read_image(p, "PNG"), m.png,
           _is_bytes()),
    Reader("mnist_m_labels", _mnist_m_labels, _listed, m.text,
           lambda v: all(0 <= label < 10 for _, label in v)),
    Reader("bsds_jpg", _image("x.jpg", (40, 60, 3)), read_image, valid=_is_bytes()),
    Reader("bsds_tar", _photographs, _unpack, m.gzipped(m.damaged),
           lambda v: all("out" in path.parts for path in v)),
    Reader("ravdess_wav_mfcc", _wav, _of_content(media.mfcc), valid=_finite, share=0.5),
    Reader("ravdess_wav_speech", _wav, _of_content(media.functionals), valid=_finite, share=0.5),
    Reader("ravdess_wav_samples", _wav, _of_content(media.samples), valid=_finite),
    Reader("ravdess_mp4", _mp4, _of_content(lambda c: media.frames(c, 2, 16, 16)),
           valid=_is_bytes((2, 3, 16, 16))),
    Reader("ravdess_openface_csv", lambda f: ravdess_files.write_tables(f, [CLIP]) /
           "FacialTracking_Actors_01-24" / f"01-{CLIP}.csv", _of_content(media.action_units),
           m.text, _units),
    Reader("ravdess_zip", _zip, _read_zip),
    Reader("ravdess_features_npz", _features, read_features, m.arrays, _is_table),
    Reader("ravdess_remote_json", _remote, _parse_record, m.json_values,
           lambda v: all(r["size"] >= 0 and len(r["checksum"]) == 36 for r in v.values())),
    Reader("cache_ravdess_meta", _clips("meta.json"), _read_clips, m.json_values, rebuilt=True,
           share=0.2),
    Reader("cache_ravdess_values", _clips("values"), _read_clips, rebuilt=True,
           share=0.2),
    Reader("cache_ravdess_log", _log, _read_log, m.json_values, rebuilt=True, share=0.2),
    Reader("av_mnist_wav", _digit, av_mnist._spoken,
           valid=lambda v: v.shape == (32, 32) and np.isfinite(v).all(), share=0.5),
    Reader("avletters_lips_mat", _lips, avletters._read_lips, valid=_are_lips),
    Reader("avletters_htk", _htk, avletters._read_htk, valid=_finite),
    Reader("lis_json", _sign, lis_emg_imu._read_sign, m.json_values, _is_sign, share=0.3),
    Reader("wiki_mat", _wiki("raw_features.mat"), lambda p: wiki.read(p.parent),
           valid=_are_paired),
    Reader("wiki_list", _wiki("trainset_txt_img_cat.list"), lambda p: wiki.read(p.parent), m.text,
           _are_paired),
    Reader("bdgp_mat", _bdgp, lambda p: bdgp.read(p.parent), valid=_are_paired),
    Reader("houston_mat", _houston, lambda p: houston_hsi_lidar.read(p.parent),
           valid=_are_paired),
    Reader("cremad_votes_csv", write_votes, read_votes, m.text,
           lambda v: all(len(c) == len(v.clips) and c.min() >= 0 for c in v.counts.values())),
    Reader("utd_mhad_skeleton", _mhad("skeleton", "d_skel", np.ones((20, 3, 9))),
           lambda p: utd_mhad._series(p, (20, 3, -1)), valid=_finite),
    Reader("utd_mhad_depth", _mhad("depth", "d_depth", np.eye(240, 320, dtype=np.uint16)[:, :, None]
                                   * np.arange(3, dtype=np.uint16)), _motion_map,
           valid=lambda v: v.shape == (30, 40) and 0 <= v.min() <= v.max() <= 1, share=0.5),
    Reader("sp_sw_har_csv", _watch, sp_sw_har._windows, m.text, _are_windows),
    Reader("seglearn_npy", _seglearn, lambda p: seglearn_watch.read(p.parent), valid=_are_paired),
    Reader("seglearn_wheel", _seglearn_wheel, lambda p: seglearn_watch.read(p.parent),
           m.zipped(m.damaged), _are_paired, share=0.3),
    Reader("kitti_scan", _street("velodyne/000000.bin"), kitti.read_scan,
           valid=lambda v: v.ndim == 2 and v.shape[1] == 4),
    Reader("kitti_labels", _street("labels/000000.label"), lambda p: kitti.read_classes(p, 300),
           valid=lambda v: v.shape == (300,) and v.max() < 20),
    Reader("kitti_calib", _street("calib.txt"), kitti.read_calibration, m.text, _is_projection),
    Reader("kitti_png", _street("image_2/000000.png"), kitti.read_image, m.png, _is_bytes()),
    Reader("kitti_dense_png", _image("x.png", (20, 30), step=10),
           lambda p: kitti.read_dense_classes(p, (20, 30), (10, 15)), m.png,
           lambda v: v.shape == (10, 15) and v.max() < 20),
    Reader("cache_kitti_meta", _sequence("meta.json"), _read_sequence, m.json_values, rebuilt=True,
           share=0.2),
    Reader("cache_kitti_points", _sequence("points"), _read_sequence, rebuilt=True, share=0.2),
    Reader("nyu_mat_hdf5", _mat("nyu_depth_v2_labeled.mat"), _read_mat, valid=_are_pairs),
    Reader("nyu_splits_mat", _mat("splits.mat"), lambda p: read_split(p, 5),
           valid=lambda v: set(v["train"]) | set(v["test"]) <= set(range(1, 6))),
    Reader("nyu_classmap_mat", _mat("classMapping40.mat"), read_class_map,
           valid=lambda v: v.shape == (895,) and 1 <= v[1:].min() <= v.max() <= 40),
    Reader("nyu_prepared_rgb", _pairs("rgb/0002.png"), _read_pairs, m.png, _are_pairs),
    Reader("nyu_prepared_depth", _pairs("depth/0002.png"), _read_pairs, m.png, _are_pairs),
    Reader("nyu_prepared_label", _pairs("label40/0002.png"), _read_pairs, m.png, _are_pairs),
    Reader("nyu_split_json", _pairs("split.json"), _read_pairs, m.json_values, _are_pairs),
    Reader("nyu_voxels", _volume, read_voxels, valid=_is_volume, share=0.5),
    Reader("nyu_depth_png", _depth, read_depth, m.png,
           lambda v: v.shape == IMAGE_SIZE and v.dtype == np.uint16, share=0.3),
    Reader("nyu_rgb_png", _image("x.png", (24, 32, 3)), lambda p: read_rgb(p, (12, 16)), m.png,
           _is_bytes((3, 12, 16))),
    Reader("nyu_packed_npz", _packed, read_packed, m.arrays, _is_sample, share=0.2),
    Reader("cache_nyu_meta", _pair_store("meta.json"), _read_pair_store, m.json_values,
           rebuilt=True, share=0.2),
    Reader("cache_nyu_values", _pair_store("depth"), _read_pair_store, rebuilt=True, share=0.2),
    Reader("checkpoint", _checkpoint, read_checkpoint, m.checkpoint, _are_weights),
    Reader("pretrained_weights", _weights, lambda p: read_weights(p, "give another"),
           m.weights, lambda v: all(torch.isfinite(w).all() for w in v.values())),
    Reader("saliency_npz", _saliency, Saliency.load, m.arrays, _is_saliency),
    Reader("run_pictures", _pictures, lambda path: read_pictures(path.parent), m.arrays,
           _is_pictures, named=("cat", "dog <b>", "bird")),
    Reader("run_log", _events, lambda path: read_curves(path.parents[1]), valid=_is_curves),
    Reader("record_json", _record, _read_record, m.json_values, _is_row),
    Reader("results_csv", _rows, _read_rows, m.text, lambda v: all(map(_is_row, v))),
    Reader("tables_curves", _curves, _read_evidence, m.text, share=0.2),
    Reader("tables_maps", _maps, _read_evidence, m.text, share=0.2),
    Reader("results_manifest", _manifest, _read_manifest, m.json_values, share=0.5),
    Reader("sweep_yaml", _sweep, _read_sweep, m.text, lambda v: len(v) <= 100_000,
           named=("model.init_args.distiller.init_args.temperature",)),
    Reader("sweep_stack", _stack, _read_stack, m.json_values, lambda v: v in ([], [_MEMBERS])),
    Reader("sweep_export", _export, _read_export, m.zipped(m.json_values),
           lambda v: all(map(_is_row, v)), share=0.5),
    Reader("config_yaml", _config, read_config, m.text),
    Reader("cached_file", _cached, _read_cached, rebuilt=True),
    Reader("cached_seal", _seal, _read_cached, m.json_values, rebuilt=True),
)  # fmt: skip
