"""UTD-MHAD, SP-SW-HAR and the watch set of seglearn: series of bodies and their sensors."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from itertools import groupby, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from ntdh_bench.datamodules.pairs import seglearn_watch, sp_sw_har, utd_mhad
from ntdh_bench.datamodules.pairs.arrays import PairedArrays, read_arrays
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.listing import below
from tests.typed import some


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


# -- UTD-MHAD ------------------------------------------------------------------------------------

ABSENT = ("a8_s1_t4", "a23_s6_t4", "a27_s8_t4")  # of the published set
KINDS = {"skeleton": "d_skel", "inertial": "d_iner", "depth": "d_depth"}


def _sequence(folder: Path, stem: str = "a1_s1_t1", **changes: Any) -> dict[str, NDArray[Any]]:
    """Write a sequence of seven frames; return what its files hold."""
    values: dict[str, NDArray[Any]] = {
        "skeleton": _random().normal(size=(20, 3, 7)),
        "inertial": _random().normal(size=(90, 6)),
        "depth": _random().integers(0, 4000, (240, 320, 7)).astype(np.uint16),
        **changes,
    }
    for kind, variable in KINDS.items():
        path = folder / kind.title() / f"{stem}_{kind}.mat"
        path.parent.mkdir(exist_ok=True)
        scipy.io.savemat(path, {variable: values[kind]}, do_compression=True)
    return values


@pytest.mark.parametrize("action", [1, 2, 3])
def test_utd_mhad_is_read_as_published(action: int, data_root: Path) -> None:
    expected = read_arrays(data_root / "pairs" / "utd_mhad.npz")
    row = np.flatnonzero((expected.target == action - 1) & (some(expected.group) == 1))[0]
    found = utd_mhad._features(data_root / "utd_mhad", f"a{action}_s1_t1")
    for array, name in zip(found, utd_mhad.UTD_MHAD.modalities, strict=True):
        np.testing.assert_array_equal(array, expected.modalities[name][row])
        assert array.dtype == expected.modalities[name].dtype


@pytest.fixture
def sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PairedArrays:
    """What is read where files have the published names, whatever is in them."""
    (tmp_path / "Skeleton").mkdir()
    for action, subject, trial in product(range(1, 28), range(1, 9), range(1, 5)):
        stem = f"a{action}_s{subject}_t{trial}"
        if stem not in ABSENT:
            (tmp_path / "Skeleton" / f"{stem}_skeleton.mat").touch()
    monkeypatch.setattr(utd_mhad, "_features", lambda *_: (np.zeros(1),) * 3)
    return utd_mhad.read(tmp_path)


def test_utd_mhad_has_the_published_order(sequences: PairedArrays, data_root: Path) -> None:
    expected = read_arrays(data_root / "pairs" / "utd_mhad.npz")
    for name in ("target", "split", "group"):
        np.testing.assert_array_equal(getattr(sequences, name), getattr(expected, name))


def test_utd_mhad_is_split_by_subject(sequences: PairedArrays) -> None:
    assert sequences.target[:32].tolist() == [9] * 32  # a10 comes before a1
    assert some(sequences.group)[:6].tolist() == [1, 1, 1, 1, 2, 2]
    trained = set(some(sequences.group)[some(sequences.split) == 0].tolist())
    assert trained == {1, 3, 5, 7}
    assert np.bincount(some(sequences.split)).tolist() == [431, 430]


def test_utd_mhad_features_by_hand(tmp_path: Path) -> None:
    values = _sequence(tmp_path)
    skeleton, inertial, depth = utd_mhad._features(tmp_path, "a1_s1_t1")
    times = np.linspace(0, 6, 32)
    for joint, axis in ((0, 1), (3, 2), (19, 0)):
        series = values["skeleton"][joint, axis] - values["skeleton"][3, axis]
        expected = np.interp(times, np.arange(7), series)
        np.testing.assert_allclose(skeleton[:, 3 * joint + axis], expected, atol=1e-6)
    expected = np.interp(np.linspace(0, 89, 64), np.arange(90), values["inertial"][:, 4])
    np.testing.assert_allclose(inertial[:, 4], expected, atol=1e-6)
    moved = np.zeros((30, 40))
    frames = values["depth"].astype(float)
    for row, column in np.ndindex(30, 40):
        square = frames[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        for before, after in pairwise(square.transpose(2, 0, 1)):
            moved[row, column] += np.minimum(abs(after - before), 300).mean()
    np.testing.assert_allclose(depth, moved / moved.max(), atol=1e-6)


def test_utd_mhad_without_motion(tmp_path: Path) -> None:
    _sequence(tmp_path, depth=np.full((240, 320, 1), 9, np.uint8))
    assert not utd_mhad._features(tmp_path, "a1_s1_t1")[2].any()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("skeleton", np.zeros((20, 2, 7)), r"not one array of numbers \(20, 3, F\)"),
        ("skeleton", np.zeros((20, 3)), r"not one array of numbers \(20, 3, F\)"),
        ("skeleton", np.full((20, 3, 2), np.nan), "not finite"),
        ("inertial", np.zeros((0, 6)), r"not one array of numbers \(F, 6\)"),
        ("inertial", np.zeros((2001, 6)), r"not one array of numbers \(F, 6\)"),
        ("depth", np.zeros((320, 240, 2), np.uint16), r"\(240, 320, F\)"),
        ("depth", np.full((240, 320, 2), 0.5), "not whole numbers from 0 to 65535"),
        ("depth", np.full((240, 320, 2), -1, np.int16), "not whole numbers from 0 to 65535"),
    ],
)
def test_utd_mhad_that_is_broken(
    kind: str, values: NDArray[Any], message: str, tmp_path: Path
) -> None:
    _sequence(tmp_path, **{kind: values})
    with pytest.raises(FileError, match=rf"a1_s1_t1_{kind}\.mat: .*{message}"):
        utd_mhad.read(tmp_path)


def test_utd_mhad_that_lacks_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no \*_skeleton\.mat in it"):
        utd_mhad.read(tmp_path)
    _sequence(tmp_path)
    with pytest.raises(FileError, match="no training samples of 'swipe right'; expected Skeleton"):
        utd_mhad.read(tmp_path)
    (tmp_path / "Skeleton" / "a28_s1_t1_skeleton.mat").touch()
    with pytest.raises(FileError, match=r"a28_s1_t1_skeleton\.mat is not called like a1_s1_t1_"):
        utd_mhad.read(tmp_path)
    (tmp_path / "Skeleton" / "a28_s1_t1_skeleton.mat").unlink()
    (tmp_path / "Depth" / "a1_s1_t1_depth.mat").unlink()
    with pytest.raises(FileError, match=r"a1_s1_t1_depth\.mat is missing; expected Skeleton"):
        utd_mhad.read(tmp_path)


# -- SP-SW-HAR -----------------------------------------------------------------------------------

HEADER = "x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label"


@pytest.mark.parametrize("subject", [1, 2])
def test_sp_sw_har_is_read_as_published(subject: int, data_root: Path) -> None:
    expected = read_arrays(data_root / "pairs" / "sp_sw_har.npz")
    first = int(np.flatnonzero(some(expected.group) == subject)[0])
    for execution in (1, 2, 3):
        name = f"s{subject:02}_{execution:02}_sp.csv"
        found = sp_sw_har._windows(data_root / "sp_sw_har" / "DATA" / name[:3] / name)
        rows = slice(first, first + len(found.activity))
        np.testing.assert_array_equal(found.phone, expected.modalities["phone"][rows])
        np.testing.assert_array_equal(found.watch, expected.modalities["watch"][rows])
        np.testing.assert_array_equal(found.activity, expected.target[rows])
        first = rows.stop


def _recording(times: list[float], labels: list[str], slope: float = 1.0) -> str:
    rows = [
        ",".join([*(str(slope * time * axis) for axis in range(6)), str(int(time)), label])
        for time, label in zip(times, labels, strict=True)
    ]
    return "\n".join([HEADER, *rows, ""])


def test_sp_sw_har_windows_by_hand(tmp_path: Path) -> None:
    phone = [100.0 + 10 * step for step in range(320)]
    watch = [130.0 + 20 * step for step in range(160)]  # until 3,310
    labels = ["SEATED"] * 183 + ["WALKING"] * 137  # until and from 1,930
    path = tmp_path / "s01_01_sp.csv"
    path.write_text(_recording(phone, labels))
    (tmp_path / "s01_01_sw.csv").write_text(_recording(watch, ["WALKING"] * 160, slope=-2))
    found = sp_sw_har._windows(path)
    assert found.activity.tolist() == [0, 0, 0, 2]
    starts = [130, 630, 1130, 2130]  # the window from 1,630 is 30 % seated, that from 1,130 80 %
    for row, start in enumerate(starts):
        times = np.linspace(start, start + 1000, 32)
        np.testing.assert_allclose(found.phone[row, :, 3], 3 * times, rtol=1e-6)
        np.testing.assert_allclose(found.watch[row, :, 5], -10 * times, rtol=1e-6)


@pytest.mark.parametrize(("seated", "kept"), [(80, 1), (79, 0), (20, 1), (21, 0)])
def test_sp_sw_har_keeps_windows_of_one_activity(seated: int, kept: int, tmp_path: Path) -> None:
    times = [10.0 * step for step in range(101)]  # one window: its end belongs to the next
    labels = ["SEATED"] * seated + ["TURNING"] * (101 - seated)
    for device in ("sp", "sw"):
        (tmp_path / f"s01_01_{device}.csv").write_text(_recording(times, labels))
    assert len(sp_sw_har._windows(tmp_path / "s01_01_sp.csv").activity) == kept


def test_sp_sw_har_without_a_common_second(tmp_path: Path) -> None:
    for device, start in (("sp", 0.0), ("sw", 900.0)):
        text = _recording([start, start + 1000], ["SEATED"] * 2)
        (tmp_path / f"s01_01_{device}.csv").write_text(text)
    assert sp_sw_har._windows(tmp_path / "s01_01_sp.csv").phone.shape == (0, 32, 6)


ROW = "0,0,0,0,0,0,{},SEATED\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no samples below the names of columns, x_acc"),
        (HEADER.replace("label", "activity"), "no samples below the names of columns, x_acc"),
        (f"{HEADER}\n\n", "no samples below"),
        (f"{HEADER}\n1,2,3\n", "damaged, or not a recording"),
        (f"{HEADER}\n{ROW.format('now')}", "damaged, or not a recording"),
        (f"{HEADER}\n{ROW.format('nan')}", "values that no sensor gives"),
        (f"{HEADER}\n{ROW.format('1')}".replace("0,0", "1e300,inf"), "no sensor gives"),
        (f"{HEADER}\n{ROW.format(5)}{ROW.format(4)}", "times that go back"),
        (f"{HEADER}\n{ROW.format(5)}{ROW.format(4_000_000)}", "more than an hour"),
        (f"{HEADER}\n{ROW.format(5).replace('SEATED', 'x' * 30)}", "labels other than SEATED, "),
    ],
)
def test_sp_sw_har_that_is_broken(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "DATA" / "s01" / "s01_01_sp.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(FileError, match=rf"s01_01_sp\.csv: .*{message}"):
        sp_sw_har.read(tmp_path)


def test_sp_sw_har_that_lacks_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no recordings in it; expected DATA"):
        sp_sw_har.read(tmp_path)
    path = tmp_path / "s01" / "s01_01_sp.csv"
    path.parent.mkdir()
    path.write_text(_recording([0.0, 2000.0], ["SEATED"] * 2))
    with pytest.raises(FileError, match=r"s01_01_sw\.csv is missing"):
        sp_sw_har.read(tmp_path)
    path.with_name("s01_01_sw.csv").write_text(path.read_text())
    with pytest.raises(FileError, match="no training samples of 'STANDING_UP'"):
        sp_sw_har.read(tmp_path)
    path.rename(path.with_name("mine_sp.csv"))
    with pytest.raises(FileError, match=r"mine_sp\.csv is not called like s01_01_sp\.csv"):
        sp_sw_har.read(tmp_path)


# -- the watch set of seglearn -------------------------------------------------------------------


def _write_watch(path: Path, **changes: Any) -> None:
    """Write the set as published: series of 2.3 windows, one of each subject and exercise."""
    subject, exercise = (part.ravel() for part in np.mgrid[1:11, :7])
    value = {
        "X": [np.asfortranarray(_random().normal(size=(230, 6))) for _ in subject],
        "y": exercise,
        "subject": subject,
        **changes,
    }
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps(np.array(value, dtype=object), protocol=2)
    path.write_bytes(header.ljust(127) + b"\n" + content)


def test_seglearn_is_read_as_published(data_root: Path) -> None:
    if not any(below(data_root, "seglearn-*.whl")):
        pytest.skip("no wheel of seglearn below NTDH_DATA")
    _check(seglearn_watch.read(data_root), read_arrays(data_root / "pairs" / "seglearn_watch.npz"))


def test_seglearn_of_windows_that_are_put_together_again(data_root: Path, tmp_path: Path) -> None:
    expected = read_arrays(data_root / "pairs" / "seglearn_watch.npz")
    keys = list(zip(expected.target.tolist(), some(expected.group).tolist(), strict=True))
    motion = np.concatenate(list(expected.modalities.values()), axis=-1).astype(float)
    series, labels = [], []
    for key, rows in groupby(range(len(keys)), key=keys.__getitem__):
        whole = motion[list(rows)].reshape(-1, 6)
        series.append(np.concatenate([whole, whole[: len(series) % 100]]))
        labels.append(key)
    y, subject = np.array(labels).T
    _write_watch(tmp_path / "watch_dataset.npy", X=series, y=y, subject=subject)
    _check(seglearn_watch.read(tmp_path), expected)


def _check(found: PairedArrays, expected: PairedArrays) -> None:
    for name, array in expected.modalities.items():
        np.testing.assert_array_equal(found.modalities[name], array)
        assert found.modalities[name].dtype == array.dtype
    np.testing.assert_array_equal(found.target, expected.target)
    np.testing.assert_array_equal(some(found.split), some(expected.split))
    np.testing.assert_array_equal(some(found.group), some(expected.group))


def test_seglearn_of_a_wheel(tmp_path: Path) -> None:
    path = tmp_path / "unpacked" / "seglearn" / "data" / "watch_dataset.npy"
    _write_watch(path)
    wheel = tmp_path / "wheel" / "seglearn-1.2.5-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(path, "seglearn/data/watch_dataset.npy")
    found, expected = (seglearn_watch.read(tmp_path / name) for name in ("wheel", "unpacked"))
    _check(found, expected)
    assert len(found) == 140
    assert some(found.split).sum() == 42
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("seglearn/__init__.py", "")
    with pytest.raises(FileError, match=r"\.whl: damaged, or not a wheel of seglearn"):
        seglearn_watch.read(wheel.parent)


@pytest.mark.parametrize(
    "changes",
    [
        {"X": []},
        {"X": [np.zeros((230, 6))] * 69},
        {"X": [np.zeros((230, 5))] * 70},
        {"X": [np.zeros(230)] * 70},
        {"X": [np.zeros((230, 6), np.int64)] * 70},
        {"X": [np.full((230, 6), np.nan)] * 70},
        {"X": [np.full((230, 6), 1e7)] * 70},
        {"X": ["a"] * 70},
        {"y": np.zeros(70)},
        {"y": [0] * 70},
        {"subject": np.full(70, 2000)},
    ],
)
def test_seglearn_that_is_broken(changes: dict[str, Any], tmp_path: Path) -> None:
    _write_watch(tmp_path / "watch_dataset.npy", **changes)
    with pytest.raises(FileError, match=r"watch_dataset\.npy: damaged, or not the set of seglearn"):
        seglearn_watch.read(tmp_path)


def test_seglearn_that_is_another_set(tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"no seglearn-1\.2\.5-py3-none-any\.whl and no watch_dataset"
    ):
        seglearn_watch.read(tmp_path)
    path = tmp_path / "watch_dataset.npy"
    _write_watch(path, y=np.arange(70) % 8)
    with pytest.raises(FileError, match="class 7, expected 0 to 6"):
        seglearn_watch.read(tmp_path)
    _write_watch(path, X=[np.zeros((99, 6))] * 70)
    with pytest.raises(FileError, match="no training samples of 'PEN'"):
        seglearn_watch.read(tmp_path)
    np.save(path, np.array({"x": 1}, dtype=object), allow_pickle=True)  # as NumPy 2 does
    with pytest.raises(FileError, match="damaged, or not the set of seglearn"):
        seglearn_watch.read(tmp_path)


def test_one_text_for_many_series_is_not_unfolded(tmp_path: Path) -> None:
    series = np.zeros((60_000, 6))  # 2.9 MB once
    _write_watch(tmp_path / "watch_dataset.npy", X=[series] * 70)
    assert (tmp_path / "watch_dataset.npy").stat().st_size < 1 << 23
    with pytest.raises(FileError, match="damaged, or not the set of seglearn"):
        seglearn_watch.read(tmp_path)


def test_seglearn_is_downloaded_once_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = []

    def fetched(url: str, part: Path, **_: Any) -> None:
        addresses.append(url)
        part.write_bytes(b"wheel")

    monkeypatch.setattr("ntdh_bench.downloads._continue", fetched)
    with pytest.raises(UserError, match=r"SHA-256 is [0-9a-f]{12}\.\.\., expected ec6b952c"):
        seglearn_watch.fetch(tmp_path)
    monkeypatch.setattr(seglearn_watch, "_SHA256", hashlib.sha256(b"wheel").hexdigest())
    seglearn_watch.fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["seglearn-1.2.5-py3-none-any.whl"]
    assert set(addresses) == {seglearn_watch._URL}
