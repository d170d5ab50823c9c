"""Images of a row in any form: paths, bytes, base64 text, data URLs, PIL images, records of ``datasets``.

An image that cannot be read raises DataError without the place of its row, which the stream adds.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, did_you_mean_file

if TYPE_CHECKING:
    from PIL.Image import Image

ACCEPTED = "a path, bytes, base64 text, a data URL, or a PIL image"
DATA_URL = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*(?P<base64>;base64)?,", re.ASCII)
LONGEST_PATH = 4096  # characters; a longer text is no path, and the file system would reject it


def images_in(value: Any, folder: Path) -> list[Image]:
    """Decode the images of a row's column, in RGB.

    Args:
        value: one image, a sequence of them, or nothing (None, empty text, an empty list).
        folder: the folder that relative paths start from.

    Raises:
        DataError: an image cannot be read; the text says which one and why.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if not isinstance(value, str | bytes | bytearray | Mapping) and isinstance(value, Sequence):
        items = list(value)
        return [_named(item, folder, f"image {number} of {len(items)}") for number, item in enumerate(items, 1)]
    return [_named(value, folder, "the image")]


def image_list(value: Any) -> list[Any]:
    """Return the images of a column, undecoded, as a list: none, one or several."""
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]


def absolute_path(image: Any, folder: Path) -> Any:
    """Return an image's path resolved against the folder of its data file; other forms of an image unchanged."""
    if (
        isinstance(image, str)
        and len(image) < LONGEST_PATH
        and not image.startswith("data:")
        and (folder / image).is_file()
    ):
        return str((folder / image).resolve())
    return image


def _named(value: Any, folder: Path, name: str) -> Image:
    try:
        return open_image(value, folder)
    except DataError as error:
        raise DataError(f"{name} {error}") from None


def open_image(value: Any, folder: Path) -> Image:
    """Open an image in RGB, rotated by its EXIF data; raises DataError whose text continues the image's name."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(value, Mapping):  # {"bytes": ..., "path": ...} of datasets, {"image": ...} of chat messages
        content = next((value[key] for key in ("bytes", "image", "path", "url") if value.get(key) is not None), None)
        if content is None:
            raise DataError(f"is a mapping without bytes, image, path or url; it has {', '.join(map(str, value))}")
        return open_image(content, folder)
    try:
        image = value if isinstance(value, Image.Image) else Image.open(io.BytesIO(read_content(value, folder)))
        image.load()
        turned: Image.Image = ImageOps.exif_transpose(image)
        return turned.convert("RGB")
    except UnidentifiedImageError:
        raise DataError("is in no format that can be read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"is too large: {error}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # decoders of damaged files
        raise DataError(f"is damaged: {error}") from None


def read_content(value: Any, folder: Path) -> bytes:
    """Return the bytes of an image's file; raises DataError if the value holds or names none."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, Path):
        return _read(value, folder)
    if not isinstance(value, str):
        raise DataError(f"is {type(value).__name__}; accepted: {ACCEPTED}")
    if value.startswith("data:"):
        return _from_data_url(value)
    if re.match(r"https?://", value):
        raise DataError(f"is the address {value[:80]!r}, which is not fetched; download it first and give its path")
    text = value.strip()
    if len(text) > LONGEST_PATH or not _exists(text, folder):
        decoded = _base64(text)
        if decoded is not None:
            return decoded
    return _read(Path(text), folder)


def _exists(text: str, folder: Path) -> bool:
    try:
        return (folder / Path(text).expanduser()).exists()
    except (OSError, ValueError):  # not a valid file name on this system
        return False


def _read(path: Path, folder: Path) -> bytes:
    place = folder / path.expanduser()
    try:
        return place.read_bytes()
    except FileNotFoundError:
        raise DataError(f"is not there: no file {str(place)[:200]!r}{did_you_mean_file(place)}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"cannot be read from {str(place)[:200]!r}: {reason}") from None


def _from_data_url(url: str) -> bytes:
    head = DATA_URL.match(url)
    decoded = _base64(url[head.end() :].strip()) if head is not None and ";base64" in head.group() else None
    if decoded is None:
        raise DataError(f"is a data URL without base64 content: {url[:40]!r}")
    return decoded


def _base64(text: str) -> bytes | None:
    """Decode base64 text; None if it is not base64 or too short for an image."""
    joined = "".join(text.split())
    if len(joined) < 32 or not re.fullmatch(r"[A-Za-z0-9+/_-]+={0,2}", joined):
        return None
    try:
        return base64.b64decode(
            joined + "=" * (-len(joined) % 4), altchars=b"-_" if re.search("[-_]", joined) else None
        )
    except (binascii.Error, ValueError):
        return None
