"""What data modules of files share: where the files are, published or generated ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ntdh_bench.cache import build_once, default_cache_dir, digest
from ntdh_bench.datasets import data_root, is_simulated
from ntdh_bench.ranges import check_choice

from .paired import PairedDataModule


class FilePairs(PairedDataModule):
    """Base of data modules that read files; see :class:`.paired.PairedDataModule`.

    A subclass calls :meth:`locate` in ``load`` and implements :meth:`folders` and
    :meth:`simulation`.

    Args:
        root: folder with the one of the data set (``mnist/``, ``ravdess/``, ...); default
            $NTDH_DATA, else ``data``.
        source: ``real`` reads ``root``; ``simulated`` writes small generated files to the cache
            once and reads those instead, whatever ``root`` is.
        data_seed: of everything that is the same in all runs: what is held out or drawn once, and
            simulated files.
        cache_dir: where derived files go; default $NTDH_CACHE, else the user's cache folder.
        shared: ``batch_size``, ``seed``, ``num_workers`` and ``unimodal``.

    Raises:
        UserError: an argument is out of range; at ``setup``, files are missing or broken.
    """

    def __init__(
        self,
        root: str | None = None,
        source: Literal["real", "simulated"] = "real",
        data_seed: int = 0,
        cache_dir: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_choice("data.source", source, ("real", "simulated"))
        self.root = root
        self.source = source
        self.data_seed = data_seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()

    @abstractmethod
    def folders(self, root: Path) -> Iterable[Path]:
        """Return the folders below a data root that are read."""

    @abstractmethod
    def simulation(self) -> tuple[dict[str, Any], Callable[..., None]]:
        """Return what simulated files depend on, plain values, and what writes them.

        That is called with a data root and the keyword ``seed``. The files are written again when
        the values change.
        """

    def simulated_root(self) -> Path:
        """Return the data root of the simulated source, its files written the first time."""
        settings, write = self.simulation()
        key = digest({**settings, "seed": self.data_seed, "version": 1})
        path = self.cache_dir / "simulated" / f"{self.name}-{key}"
        return build_once(path, partial(write, seed=self.data_seed))

    def locate(self) -> Path:
        """Return the data root, and note in ``source`` if what it has is generated."""
        root = self.simulated_root() if self.source == "simulated" else data_root(self.root)
        if any(is_simulated(folder, root) for folder in self.folders(root)):
            self.source = "simulated"
        return root
