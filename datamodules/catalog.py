"""The data catalogue: what ``ntdh-bench data`` shows and calls. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args

from ntdh_bench.datasets import DatasetInfo, Option

from .ravdess.settings import DEFAULTS, Backend


def _later(module: str, function: str) -> Callable[..., Any]:
    """Return what calls a function of a module here, which is imported only then."""

    def call(*values: Any, **options: Any) -> Any:
        return getattr(import_module(module, __package__), function)(*values, **options)

    return call


def _files(package: str) -> dict[str, Any]:
    """Return what the package of a data set does with its files."""
    write = _later(f".{package}.simulate", "write_simulated")
    return {
        "prepare": _later(f".{package}.prepare", "prepare"),
        "lacking": _later(f".{package}.glance", "lacking"),
        "verify": _later(f".{package}.prepare", "verify"),
        "sample": lambda root, seed: write(root, seed=seed),
    }


SYNTHETIC = DatasetInfo(
    name="synthetic",
    title="Gaussian clusters, a chosen gap",
    modalities=("block a", "block b"),
    folders=(),
    licence="none needed",
    how_to_get="made on the fly",
)

MNIST = DatasetInfo(
    name="mnist",
    title="digits, plain and on photographs",
    modalities=("MNIST", "MNIST-M"),
    folders=("mnist", "bsds500"),
    licence="research data; terms of MNIST and BSDS500 at their publishers",
    how_to_get="data prepare mnist",
    file_urls=_later(".mnist.prepare", "file_urls"),
    **_files("mnist"),
)

RAVDESS = DatasetInfo(
    name="ravdess",
    title="emotional speech and its faces",
    modalities=("speech", "faces"),
    folders=("ravdess",),
    licence="CC BY-NC-SA 4.0 (Livingstone and Russo 2018)",
    how_to_get="data prepare ravdess",
    file_urls=_later(".ravdess.prepare", "file_urls"),
    **_files("ravdess"),
    options=(
        Option("--backend", "computes the MFCCs", DEFAULTS.backend, choices=get_args(Backend)),
        Option("--songs", "the songs as well", DEFAULTS.songs),
        Option("--frames", "video frames per clip", DEFAULTS.frames, int),
        Option("--image_height", "of the frames, pixels", DEFAULTS.image_height, int),
        Option("--image_width", "of the frames, pixels", DEFAULTS.image_width, int),
        Option("--jobs", "threads that decode; default: one per core", None, int),
        Option("--tolerance", "damaged or misnamed files to accept", 0, int),
    ),
)  # fmt: skip

NYUV2 = DatasetInfo(
    name="nyuv2",
    title="rooms: labelled, and completed",
    modalities=("RGB", "depth"),
    folders=("nyuv2", "nyu_ssc"),
    licence="research data; terms of NYU Depth V2 and SSCNet at their publishers",
    how_to_get="fetch, then data prepare --from",
    page_urls=(
        "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        "https://github.com/ankurhanda/nyuv2-meta-data",
        "https://github.com/waterljwant/SSC",
    ),
    file_urls=lambda: (
        "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat",
        "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",
        "http://sscnet.cs.princeton.edu/sscnet_release/data/depthbin_eval.zip",
    ),
    **_files("nyuv2"),
    options=(Option("--full_size", "labelled pairs of 640x480; default: half of it", False),),
)

SEMANTICKITTI = DatasetInfo(
    name="semantickitti",
    title="streets, in one image plane",
    modalities=("camera", "lidar"),
    folders=("semantickitti",),
    licence="CC BY-NC-SA 4.0 (Behley et al. 2019), CC BY-NC-SA 3.0 (Geiger et al. 2012)",
    how_to_get="register, then prepare --from",
    page_urls=(
        "https://www.cvlibs.net/datasets/kitti/eval_odometry.php",
        "https://semantic-kitti.org/dataset.html",
    ),
    **_files("semantickitti"),
)
