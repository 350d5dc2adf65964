"""Where the files of SemanticKITTI lie."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import visible

#: Number of scans in each labelled sequence, as published.
SEQUENCE_LENGTH = {
    0: 4541, 1: 1101, 2: 4661, 3: 801, 4: 271, 5: 2761, 6: 1101, 7: 1101, 8: 4071, 9: 1591, 10: 1201
}  # fmt: skip
#: Sequence 08 is what everybody reports, so it selects nothing: 10 is held out for that.
TRAIN_SEQUENCES = (0, 1, 2, 3, 4, 5, 6, 7, 9)
VAL_SEQUENCES = (10,)
TEST_SEQUENCES = (8,)

#: Folder of each kind of file in a sequence, and the ending of its files.
KINDS = {"velodyne": ".bin", "labels": ".label", "image_2": ".png"}
DENSE_FOLDER = "image_2_labels"
CALIBRATION = "calib.txt"

HOW_TO_GET = (
    "register at cvlibs.net/datasets/kitti (odometry: velodyne, colour, calibration) and "
    "semantic-kitti.org (labels), unpack all into one folder"
)


class Frame(NamedTuple):
    """The files of one moment: scan, labels, image, and dense image labels where they are used."""

    scan: Path
    labels: Path
    image: Path
    dense: Path | None = None


def sequences_folder(root: Path) -> Path:
    """Return the folder with the sequences ``00``, ``01``, ... of the data root.

    ``semantickitti/sequences`` below the root, also with the publisher's ``dataset`` in between;
    the root may be the folder ``semantickitti`` itself.

    Raises:
        UserError: there is none.
    """
    inside = [root / "semantickitti", root / "semantickitti" / "dataset", root, root / "dataset"]
    for folder in inside:
        if (folder / "sequences").is_dir():
            return folder / "sequences"
    raise UserError(
        f"SemanticKITTI is missing: no {inside[0] / 'sequences'}/NN/"
        f"{{velodyne,labels,image_2,calib.txt}}; {HOW_TO_GET}, then run `ntdh-bench data prepare "
        "semantickitti --from FOLDER`, or use `--data.source simulated`"
    )


def present_sequences(folder: Path) -> list[int]:
    """Return the numbers of the sequences in ``folder``, in order."""
    names = [path.name for path in visible(folder) if path.is_dir()]
    return sorted(
        int(name) for name in names if len(name) == 2 and name.isascii() and name.isdigit()
    )


def sequence_folder(folder: Path, sequence: int) -> Path:
    """Return the folder of one sequence."""
    return folder / f"{sequence:02d}"


def require_sequences(folder: Path, wanted: Iterable[int]) -> None:
    """Raise a UserError that names those of the sequences ``wanted`` which are not there."""
    there = present_sequences(folder)
    missing = ", ".join(f"{number:02d}" for number in wanted if number not in there)
    if missing:
        found = ", ".join(f"{number:02d}" for number in there) or "none"
        raise UserError(
            f"{folder}: sequences missing: {missing} (there: {found}); get them, or name those to "
            "use with data.train_sequences, data.val_sequences and data.test_sequences"
        )


def frames(sequence: Path, *, dense: bool = False) -> list[Frame]:
    """Return the frames of a sequence folder in order of name.

    Args:
        sequence: folder with ``velodyne``, ``labels`` and ``image_2``.
        dense: with the files of ``image_2_labels``, if the sequence has that folder.

    Raises:
        UserError: there are no scans, or a scan has no labels or no image.
    """
    names = file_names(sequence, "velodyne")
    if not names:
        raise UserError(f"{sequence / 'velodyne'}: no *.bin; get the velodyne scans of KITTI")
    with_dense = dense and (sequence / DENSE_FOLDER).is_dir()
    for kind, ending in {**KINDS, **({DENSE_FOLDER: ".png"} if with_dense else {})}.items():
        missing = sorted(set(names) - set(_names(sequence / kind, ending)))
        if missing:
            raise UserError(
                f"{sequence / kind / (missing[0] + ending)} is missing ({len(missing)} of "
                f"{len(names)} in all), though its scan is there: get it, or remove the scan"
            )
    return [
        Frame(
            sequence / "velodyne" / f"{name}.bin",
            sequence / "labels" / f"{name}.label",
            sequence / "image_2" / f"{name}.png",
            sequence / DENSE_FOLDER / f"{name}.png" if with_dense else None,
        )
        for name in names
    ]


def file_names(sequence: Path, kind: str) -> list[str]:
    """Return the names, without their ending, of a sequence's files of one of the ``KINDS``."""
    return _names(sequence / kind, KINDS[kind])


def _names(folder: Path, ending: str) -> list[str]:
    return [path.stem for path in visible(folder, f"*{ending}")]
