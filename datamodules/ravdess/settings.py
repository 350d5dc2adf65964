"""How the published files are prepared: one set of defaults and limits. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from ntdh_bench.ranges import check_at_least, check_choice, check_within

Backend = Literal["librosa", "torchaudio"]


@dataclass(frozen=True)
class Preparation:
    """What a run and ``data prepare`` must agree on to use the same stores.

    Attributes:
        backend: what computes MFCCs: ``librosa``, or ``torchaudio`` (on the GPU if there is one).
        songs: use the sung clips as well.
        frames: video frames stored a clip.
        image_height: of the stored frames, in pixels.
        image_width: likewise.
    """

    backend: Backend = "librosa"
    songs: bool = False
    frames: int = 1
    image_height: int = 256
    image_width: int = 512

    def check(self, prefix: str, jobs: int | None) -> None:
        """Check the settings, and the number of threads.

        Args:
            prefix: of the settings' names, as the user wrote them.
            jobs: threads that prepare.

        Raises:
            UserError: one is out of range.
        """
        check_choice(f"{prefix}backend", self.backend, get_args(Backend))
        check_within(f"{prefix}frames", self.frames, 1, 64)
        check_within(f"{prefix}image_height", self.image_height, 28, 1080)  # the network pools 28
        check_within(f"{prefix}image_width", self.image_width, 56, 1920)
        check_at_least(f"{prefix}jobs", jobs, 1)

    def flags(self) -> str:
        """Return the flags of a run that finds what was prepared: of what is not the default."""
        return "".join(
            f" --data.{name} {str(value).lower()}"
            for name, value in asdict(self).items()
            if value != getattr(DEFAULTS, name)
        )


DEFAULTS = Preparation()
