"""Decoding: formats by content, upright and on white, and what is refused before it is decoded."""

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from bsce_jax.data import decode
from bsce_jax.errors import UserError

# a corner of each colour, which tells how an image was turned
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 90, 90]]], np.uint8)


def uint8(values: object) -> np.ndarray:
    return np.array(values, np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(content: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(decode.decode(content, "x.png", mode))


def oriented(form: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(Image.fromarray(CORNERS), form, exif=exif, **options)


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG of any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        # numpy's words for what each value of the EXIF standard asks for
        (1, CORNERS),
        (2, CORNERS[:, ::-1]),
        (3, CORNERS[::-1, ::-1]),
        (4, CORNERS[::-1]),
        (5, CORNERS.transpose(1, 0, 2)),
        (6, np.rot90(CORNERS, -1)),
        (7, CORNERS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(CORNERS)),
        (0, CORNERS),
        (9, CORNERS),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright(form: str, orientation: int, expected: np.ndarray) -> None:
    lossless: dict[str, bool] = {"lossless": True} if form == "WEBP" else {}
    found = pixels(oriented(form, orientation, **lossless))
    np.testing.assert_array_equal(found, expected)


def test_a_jpeg_is_turned_upright() -> None:
    tall = Image.fromarray(np.repeat(uint8([[[255] * 3], [[0] * 3]]), 8, 0).repeat(16, 1))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    found = pixels(encoded(tall, "JPEG", exif=exif))
    assert found.shape == (16, 16, 3)
    assert found[:, :6].max() < 20 < 200 < found[:, -6:].min()  # what was above is at the right


def test_a_damaged_exif_part_changes_nothing() -> None:
    content = encoded(Image.fromarray(CORNERS), "PNG", exif=b"Exif\0\0not a tiff header")
    np.testing.assert_array_equal(pixels(content), CORNERS)


def test_transparency_is_on_white() -> None:
    colours = uint8([[[200, 0, 0, 0], [200, 0, 0, 255]]])
    expected = [[[255, 255, 255], [200, 0, 0]]]
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(colours), "PNG")), expected)
    half = uint8([[[0, 100, 200, 51]]])  # a fifth of the colour, four fifths of white
    np.testing.assert_allclose(
        pixels(encoded(Image.fromarray(half), "PNG")), [[[204, 224, 244]]], atol=1
    )
    grey = Image.fromarray(uint8([[[7, 0], [7, 255]]]))
    assert grey.mode == "LA"
    assert pixels(encoded(grey, "PNG"))[0, :, 0].tolist() == [255, 7]
    assert pixels(encoded(grey, "PNG"), "L").tolist() == [[255, 7]]


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_is_white(form: str) -> None:
    image = Image.fromarray(uint8([[0, 1]])).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    content = encoded(image, form, transparency=0)
    assert pixels(content).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    keyed = encoded(Image.fromarray(CORNERS), "PNG", transparency=(0, 255, 0))
    assert pixels(keyed)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_a_palette_with_several_transparencies_is_no_warning() -> None:
    image = Image.fromarray(uint8([[0, 1]])).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    content = encoded(image, "PNG", transparency=bytes([0, 255]))
    assert pixels(content).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_the_first_image_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(content) == [255, 0, 0]).all()


def test_an_image_that_is_a_line_is_refused() -> None:
    """To 256 pixels of the shorter side it would have gigabytes, before it is cropped."""
    assert decode.open_image(png_header(2_000, 20), "x.png").size == (2_000, 20)
    for size in ((2_001, 20), (1, 101)):
        with pytest.raises(UserError, match=r"a side of more than 100 times the other are refused"):
            decode.open_image(png_header(*size), "x.png")


def test_a_large_image_is_refused_by_its_header() -> None:
    """In one line, and without a warning of Pillow's, which has limits of its own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for width, height in ((16_001, 8_000), (60_000, 60_000)):
            for read in (decode.decode, decode.check):
                with pytest.raises(UserError) as error:
                    read(png_header(width, height), "x.png")
                assert str(error.value) == (
                    f"x.png has {width}x{height} pixels: images of more than 128,000,000 are "
                    "refused"
                )
        # of the largest size only the pixels are missing
        with pytest.raises(UserError, match=r"cannot read x\.png as an image: "):
            decode.check(png_header(16_000, 8_000), "x.png")
    assert not caught


def test_a_large_image_takes_no_memory() -> None:
    script = f"""
import resource
from bsce_jax.data import decode
from bsce_jax.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode.decode({png_header(60_000, 60_000)!r}, "x")
except UserError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert int(grown) < 10_000  # KiB; the pixels would take a thousand times as much


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_damage_is_refused_and_nothing_else_is_raised(form: str) -> None:
    """Checking and decoding agree, whatever happened to the bytes."""
    content = encoded(Image.effect_noise((24, 16), 90), form)
    rng = random.Random(0)
    results = set()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 8))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
        found = []
        for read in (decode.decode, decode.check):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of parts that are no pixels
                    read(cut, "x")
                found.append(True)
            except UserError:
                found.append(False)
        assert found[0] == found[1]
        results.add(found[0])
    assert False in results


@pytest.mark.parametrize("content", [b"", b"\xff", b"GIF", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"cannot read x\.jpg as an image: it is "):
        decode.decode(content, "x.jpg")


def test_all_records_are_read_in_order_and_an_error_comes_up() -> None:
    image = lambda record: np.full((2, 3, 1), record % 256)
    records = np.arange(1000)[::-1]
    found = decode.read_all(image, records, (2, 3, 1))
    assert found.shape == (1000, 2, 3, 1)
    assert (found == (records % 256)[:, None, None, None]).all()
    assert decode.read_all(image, [], (2, 3, 1)).shape == (0, 2, 3, 1)

    def broken(record: int) -> np.ndarray:
        raise UserError(f"record {record}")

    with pytest.raises(UserError, match="record 7"):
        decode.read_all(broken, [7], (2, 3, 1))
    assert decode.threads() is decode.threads()
