"""Images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import AGAIN, read_bytes, reading

_MAX_BYTES = 1 << 26


@contextmanager
def opened_image(
    path: Path,
    max_pixels: int,
    formats: tuple[str, ...] = ("PNG", "JPEG"),
    remedy: str = AGAIN,
) -> Iterator[Image.Image]:
    """Open an image; what keeps it from being decoded inside the block becomes a FileError.

    Args:
        path: the file.
        max_pixels: most pixels it may have.
        formats: those of the layout, by Pillow's names: of others, some start other programs.
        remedy: what to do if it is missing or damaged.

    Raises:
        FileError: it is missing, of another format, too large, or damaged.
    """
    # Of a file, Pillow would allocate as many bytes as a chunk says that it has.
    content = BytesIO(read_bytes(path, _MAX_BYTES, remedy))
    with (
        reading(path, f"a {' or '.join(formats)} image", remedy),
        Image.open(content, formats=formats) as image,
    ):
        if image.width * image.height > max_pixels:
            raise FileError(
                f"{path}: {image.width}x{image.height} pixels, expected at most {max_pixels}; "
                f"{remedy}"
            )
        yield image
