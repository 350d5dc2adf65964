"""Where the files of MNIST, BSDS500 and the MNIST-M archive lie, and what identifies them."""

from __future__ import annotations

from pathlib import Path

from ntdh_bench.cache import file_digest
from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import visible
from ntdh_bench.files.reading import checked_size, reading

IDX_FOLDER = Path("mnist", "MNIST", "raw")
PHOTO_FOLDER = Path("bsds500", "BSDS500", "data", "images")
ARCHIVE_FOLDER = Path("mnist_m_archive", "mnist_m")

#: Name and MD5 of the published files (the ones torchvision checks).
IDX_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
#: MD5 of the same files unpacked.
UNPACKED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
IDX_PREFIX = {"train": "train", "test": "t10k"}
IDX_COUNT = {"train": 60_000, "test": 10_000}
#: Number of images in the published MNIST-M archive.
ARCHIVE_COUNT = {"train": 59_001, "test": 9_001}
PHOTO_COUNT = {"train": 200, "test": 200, "val": 100}


def how_to_get(root: Path) -> str:
    """Return what is expected below ``root`` and how to get it, in one line."""
    return (
        f"expected {root / IDX_FOLDER}/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte[.gz] and "
        f"{root / PHOTO_FOLDER}/{{train,test}}/*.jpg; get them with `ntdh-bench data prepare mnist "
        f"--root {root}`, or use `--data.source simulated`"
    )


def idx_file(root: Path, split: str, kind: str) -> Path:
    """Return the IDX file of a split ("train", "test") and kind ("images", "labels").

    Raises:
        UserError: it is not there, gzipped or not.
    """
    dims = "images-idx3" if kind == "images" else "labels-idx1"
    plain = root / IDX_FOLDER / f"{IDX_PREFIX[split]}-{dims}-ubyte"
    for path in (plain.with_name(plain.name + ".gz"), plain):
        if path.is_file():
            return path
    raise UserError(f"MNIST is missing: no {plain}[.gz]; {how_to_get(root)}")


def photographs(root: Path) -> dict[str, list[Path]]:
    """Return the BSDS500 photographs for the backgrounds of "train" and "test", in order of name.

    Test backgrounds come from the test folder, or from the validation folder if that is empty.

    Raises:
        UserError: there are none for a split.
    """
    folder = root / PHOTO_FOLDER
    found = {
        "train": jpegs(folder / "train"),
        "test": jpegs(folder / "test") or jpegs(folder / "val"),
    }
    for split, paths in found.items():
        if not paths:
            raise UserError(
                f"BSDS500 is missing: no *.jpg in {folder / split}; MNIST-M is built from them; "
                f"{how_to_get(root)}"
            )
    return found


def jpegs(folder: Path) -> list[Path]:
    """Return the JPEG files of a folder in order of name; none if it does not exist."""
    return visible(folder, "*.jpg")


def content_digests(paths: list[Path], root: Path) -> dict[str, str]:
    """Return the digest of every file by its path below ``root``.

    Raises:
        UserError: one is no file that can be read, such as a link to nowhere.
    """
    digests = {}
    for path in paths:
        checked_size(path, 1 << 62)
        with reading(path, "a file"):
            digests[path.relative_to(root).as_posix()] = file_digest(path)
    return digests
