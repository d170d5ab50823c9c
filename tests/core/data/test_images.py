"""Images of a row: every form in which files store them, and every way in which they can be bad."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.data.images import images_in
from mindrlhf_grpo.errors import DataError
from tests.support.tiny_vision import Image, picture, png

PICTURE = picture(0, 12, 8)
BYTES = png(PICTURE)
TEXT = base64.b64encode(BYTES).decode()


def pixels(images: list[Any]) -> list[bytes]:
    return [image.tobytes() for image in images]


@pytest.mark.parametrize(
    "value",
    [
        BYTES,
        bytearray(BYTES),
        TEXT,
        TEXT[:40] + "\n" + TEXT[40:],
        base64.urlsafe_b64encode(BYTES).decode().rstrip("="),
        f"data:image/png;base64,{TEXT}",
        {"bytes": BYTES, "path": "elsewhere.png"},
        {"bytes": None, "path": "a picture.png"},
        {"image": PICTURE},
        PICTURE,
        "a picture.png",
        Path("a picture.png"),
        [BYTES],
        (TEXT,),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_image_is_read_in_every_form(value: Any, tmp_path: Path) -> None:
    (tmp_path / "a picture.png").write_bytes(BYTES)
    assert pixels(images_in(value, tmp_path)) == [PICTURE.tobytes()]


@pytest.mark.parametrize("value", [None, "", "  ", [], ()])
def test_nothing_is_no_image(value: Any, tmp_path: Path) -> None:
    assert images_in(value, tmp_path) == []


def test_several_images_keep_their_order(tmp_path: Path) -> None:
    others = [picture(seed) for seed in (1, 2)]
    assert pixels(images_in([PICTURE, *others], tmp_path)) == pixels([PICTURE, *others])


def test_images_become_rgb_and_upright(tmp_path: Path) -> None:
    grey = Image.new("L", (4, 6), 128)
    exif = grey.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    grey.save(tmp_path / "grey.png", exif=exif)
    (image,) = images_in("grey.png", tmp_path)
    assert (image.mode, image.size) == ("RGB", (6, 4))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("pictures/frist.png", r"the image is not there: no file '.*frist.png' \(did you mean '.*first.png'\?\)"),
        (["pictures/first.png", "none.png"], "image 2 of 2 is not there"),
        (BYTES[:60], "the image is damaged"),
        (b"no image", "the image is in no format that can be read"),
        ("pictures", "the image cannot be read from .*pictures"),
        ("https://images.example/a.png", "is the address 'https://images.example/a.png', which is not fetched"),
        ("data:image/png,abc", "is a data URL without base64 content"),
        ("data:image/png;base64,%%%", "is a data URL without base64 content"),
        (7, "the image is int; accepted: a path, bytes"),
        ({"width": 3}, "is a mapping without bytes, image, path or url; it has width"),
        ("x\0y.png", "the image cannot be read"),
        ("A" * 5000, "the image is in no format"),
    ],
)
def test_a_bad_image_says_which_and_why(value: Any, reason: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "first.png").write_bytes(BYTES)
    with pytest.raises(DataError, match=reason):
        images_in(value, tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="the image is too large"):
        images_in(BYTES, tmp_path)
