"""Reading files that cannot be trusted: one opener for each format, used everywhere.

Sizes are checked before memory is allocated, nothing in a file is executed, and whatever is wrong
with one becomes a :class:`~ntdh_bench.errors.FileError`: one line that names the file and what to
do, and quotes nothing of its content. Imports no torch; checkpoints are read by
:mod:`ntdh_bench.checkpoints`, tar archives unpacked by :mod:`ntdh_bench.downloads`.
"""

from ntdh_bench.files.archives import open_zip, read_member
from ntdh_bench.files.arrays import Spec, map_npy, read_npz
from ntdh_bench.files.images import opened_image
from ntdh_bench.files.listing import is_shadow, visible
from ntdh_bench.files.mat5 import read_mat5
from ntdh_bench.files.reading import checked_size, read_bytes, reading
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json, read_text, read_yaml

__all__ = [
    "Spec",
    "checked_size",
    "is_shadow",
    "map_npy",
    "mismatch",
    "open_zip",
    "opened_image",
    "read_bytes",
    "read_json",
    "read_mat5",
    "read_member",
    "read_npz",
    "read_text",
    "read_yaml",
    "reading",
    "visible",
]
