"""Wiki: articles of Wikipedia and their images, ten topics (Rasiwasia et al., ACM MM 2010).

Published layout: ``raw_features.mat`` (variables ``I_tr``, ``I_te``: 128 visual words of SIFT, a
histogram whose sum is 1; ``T_tr``, ``T_te``: 10 topics of an LDA model) and the lists
``trainset_txt_img_cat.list`` and ``testset_txt_img_cat.list``: article, image and topic (1 to 10)
of each row. 2,173 training and 693 test pairs. The names are those that published loaders use; no
original file was at hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.text import read_text

from .arrays import TEST, TRAIN, PairedArrays
from .layouts import classes_of, inner, latent, read_matrix, shown
from .published import published_set

_FEATURES = "raw_features.mat"
_LISTS = {"tr": "trainset_txt_img_cat.list", "te": "testset_txt_img_cat.list"}
_WORDS, _TOPICS = 128, 10
_MAX_LIST_BYTES = 1 << 20
_REMEDY = "expected raw_features.mat and the two lists of wikipedia_dataset"
_CLASSES = (
    "art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport",
    "warfare",
)  # fmt: skip


def read(folder: Path) -> PairedArrays:
    """Read ``raw_features.mat`` and both lists: training rows first, in the published order.

    Raises:
        FileError: a file is missing or damaged, or the rows of two do not go together.
    """
    folder = inner(folder, "wikipedia_dataset")
    path = folder / _FEATURES
    images, texts, labels = [], [], []
    for part, name in _LISTS.items():
        image = read_matrix(path, f"I_{part}", _WORDS, _REMEDY)
        text = read_matrix(path, f"T_{part}", _TOPICS, _REMEDY)
        label = _read_topics(folder / name)
        if not len(image) == len(text) == len(label):
            raise FileError(
                f"{path}: I_{part} has {len(image)} rows, T_{part} {len(text)}, {name} "
                f"{len(label)}: they are not of one set; {_REMEDY}"
            )
        images.append(image)
        texts.append(text)
        labels.append(label)
    return PairedArrays(
        {
            "image": np.concatenate(images).astype(np.float32),
            "text": np.concatenate(texts).astype(np.float32),
        },
        np.concatenate(labels),
        np.repeat(np.array([TRAIN, TEST], np.int8), [len(label) for label in labels]),
    )


def _read_topics(path: Path) -> NDArray[np.int64]:
    lines = read_text(path, _MAX_LIST_BYTES, _REMEDY).split("\n")
    words = [line.split() for line in lines if line.strip()]
    if any(len(line) != 3 or not line[2].isascii() or not line[2].isdigit() for line in words):
        raise FileError(f"{path}: a line is not `article image topic`; {_REMEDY}")
    topics = np.array([min(int(line[2][:9]), 1 << 20) for line in words], np.int64)
    return classes_of(path, topics, _TOPICS, _REMEDY)


def write_simulated(folder: Path, seed: int) -> None:
    """Write 700 training and 300 test pairs in the published layout."""
    from scipy.io import savemat

    random = np.random.default_rng(seed)
    target = random.permutation(np.arange(1000) % len(_CLASSES))
    hidden = latent(target, 12, 0.8, seed)
    rates = np.exp(shown(hidden, (_WORDS,), 0.6, seed + 1))
    words = random.poisson(200 * rates / rates.sum(1, keepdims=True)) + 1
    topics = np.exp(2 * shown(hidden, (_TOPICS,), 0.4, seed + 2))
    values = {"I": words / words.sum(1, keepdims=True), "T": topics / topics.sum(1, keepdims=True)}
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"tr": slice(0, 700), "te": slice(700, None)}
    savemat(
        folder / _FEATURES,
        {f"{kind}_{part}": values[kind][rows[part]] for kind in values for part in rows},
    )
    for part, name in _LISTS.items():
        labels = (target[rows[part]] + 1).tolist()
        lines = [f"text{row}-1\timage{row}\t{label}\n" for row, label in enumerate(labels)]
        (folder / name).write_text("".join(lines))


WIKI = published_set(
    name="wiki",
    title="articles and their images, ten topics",
    modalities=("image", "text"),
    class_names=_CLASSES,
    samples=2866,
    licence="none stated (SVCL, Rasiwasia et al. 2010)",
    how_to_get="wikipedia_dataset of svcl.ucsd.edu/projects/crossmodal",
    read=read,
    write=write_simulated,
    page_urls=("http://www.svcl.ucsd.edu/projects/crossmodal/",),
)
