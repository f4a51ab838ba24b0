"""Pictures are read whole and exactly, or their fault is named."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from system.errors import DataError
from system.logs.pixels import Picture, PictureLimits, decode_picture, read_window_pictures
from system.records import Frame

LIMITS = PictureLimits()
INTRINSICS = (100.0, 0.0, 32.0, 0.0, 100.0, 24.0, 0.0, 0.0, 1.0)


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them within a few grey values."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=2).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def read_one(path: Path, data: bytes, limits: PictureLimits = LIMITS, **frame) -> Picture | DataError:
    path.write_bytes(data)
    return read_window_pictures([Frame("front", 0, str(path), **frame)], limits)[0]


def code_of(found: Picture | DataError) -> str:
    assert isinstance(found, DataError), f"expected a fault, found {found}"
    return found.code


def test_png_keeps_every_pixel(tmp_path):
    picture = read_one(tmp_path / "a.png", encoded(scene()))
    np.testing.assert_array_equal(picture.rgb_HWC, scene())
    assert (picture.full_width, picture.full_height) == (64, 48)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(scene()).convert(mode)
    picture = read_one(tmp_path / "a", encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert picture.rgb_HWC.shape == (48, 64, 3) and picture.rgb_HWC.dtype == np.uint8
    if mode == "L":
        np.testing.assert_array_equal(picture.rgb_HWC[..., 0], np.asarray(image))


def test_palette_with_transparency_is_read(tmp_path):
    data = encoded(Image.fromarray(scene()).convert("P"), "PNG", transparency=bytes(range(16)))
    assert read_one(tmp_path / "a.png", data).rgb_HWC.shape == (48, 64, 3)


def test_sixteen_bits_are_stretched_between_percentiles(tmp_path):
    values = np.linspace(20_000, 24_000, 48 * 64).reshape(48, 64).astype(np.uint16)
    values[0, 0] = 65_535  # one hot pixel does not darken the others
    grey = read_one(tmp_path / "ir.png", encoded(values)).rgb_HWC[..., 0]
    assert grey[1, 0] < 10 and grey[-1, -1] == 255 and grey[0, 0] == 255
    assert abs(int(grey[24, 0]) - 128) <= 3


def test_flat_sixteen_bits_do_not_divide_by_zero(tmp_path):
    assert read_one(tmp_path / "ir.png", encoded(np.full((48, 64), 7, np.uint16))).rgb_HWC.max() == 0


def test_all_unknown_floats_are_black(tmp_path):
    image = Image.fromarray(np.full((8, 8), np.nan, np.float32))
    assert read_one(tmp_path / "a.tif", encoded(image, "TIFF")).rgb_HWC.max() == 0


def test_calibrated_picture_is_never_turned_and_an_uncalibrated_one_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: shown right, the stored picture turns clockwise
    data = encoded(scene(), "PNG", exif=exif)
    stored = read_one(tmp_path / "a.png", data, intrinsics=INTRINSICS, width=64, height=48)
    upright = read_one(tmp_path / "a.png", data, width=64, height=48)
    np.testing.assert_array_equal(stored.rgb_HWC, scene())
    np.testing.assert_array_equal(upright.rgb_HWC, np.rot90(scene(), -1))
    assert (upright.full_width, upright.full_height) == (48, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_turned_as_pillow_turns_it(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_picture(data, "a", LIMITS, upright=True).rgb_HWC, np.asarray(expected))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 300))
def test_scaled_decoding_never_falls_below_the_side_asked_for(height, width, min_side):
    data = encoded(np.zeros((height, width, 3), np.uint8), "JPEG")
    picture = decode_picture(data, "a", LIMITS, min_side)
    assert min(picture.rgb_HWC.shape[:2]) >= min(min_side, height, width)
    assert (picture.full_width, picture.full_height) == (width, height)


def test_scaled_decoding_shows_the_same_scene():
    data = encoded(scene(480, 640), "JPEG", quality=95)
    small = decode_picture(data, "a", LIMITS, 100).rgb_HWC
    assert small.shape == (120, 160, 3)
    expected = scene(480, 640).reshape(120, 4, 160, 4, 3).mean((1, 3))
    assert np.abs(small - expected).mean() < 2


def test_every_fault_has_its_name(tmp_path):
    png, jpeg = encoded(scene()), encoded(scene(480, 640), "JPEG")
    path = tmp_path / "a"
    assert code_of(read_window_pictures([Frame("front", 0, str(tmp_path / "none.png"))], LIMITS)[0]) == "missing_file"
    assert code_of(read_one(path, b"")) == "empty_file"
    assert code_of(read_one(path, jpeg[:-40])) == "truncated_image"
    assert code_of(read_one(path, jpeg[: len(jpeg) // 2])) == "truncated_image"
    assert code_of(read_one(path, png[: len(png) // 2])) == "truncated_image"
    assert code_of(read_one(path, b"<html>404 Not Found</html>")) == "not_an_image"
    assert code_of(read_one(path, png, PictureLimits(max_file_bytes=100))) == "too_large"
    assert code_of(read_one(path, png, PictureLimits(max_pixels=100))) == "too_large"
    assert code_of(read_one(path, png, width=640, height=480, intrinsics=INTRINSICS)) == "wrong_shape"
    assert code_of(read_one(path, png, container="tar", locator="here")) == "bad_locator"
    assert code_of(read_one(path, png, container="tar", locator=f"0:{1 << 40}")) == "too_large"
    assert code_of(read_window_pictures([Frame("front", 0, str(tmp_path))], LIMITS)[0]) == "unreadable_file"


def test_a_postscript_file_is_not_run(tmp_path):
    """Pillow would start an interpreter for it."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n%%EOF\n"
    assert code_of(read_one(tmp_path / "a.jpg", data)) == "not_an_image"


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """A PNG of 60,000 x 60,000 zeros is a few megabytes in the file and 10 GiB in memory."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )
    assert code_of(read_one(tmp_path / "a.png", bomb)) == "too_large"


def test_a_png_of_no_size_is_refused(tmp_path):
    data = bytearray(encoded(scene()))
    data[16:20] = bytes(4)
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    assert code_of(read_one(tmp_path / "a.png", bytes(data))) in ("zero_size", "truncated_image", "not_an_image")


def test_a_fault_leaves_the_other_pictures_alone(tmp_path):
    for k in range(40):
        (tmp_path / f"{k}.png").write_bytes(encoded(scene()) if k % 3 else b"")
    found = read_window_pictures([Frame("front", k, str(tmp_path / f"{k}.png")) for k in range(40)], LIMITS)
    assert [isinstance(picture, Picture) for picture in found] == [bool(k % 3) for k in range(40)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM"])
def test_flipped_bytes_never_raise_anything_but_a_data_error(form):
    rng = np.random.default_rng(0)
    image = Image.fromarray(scene())
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if form in ("JPEG", "PNG", "TIFF", "WEBP") else {}
    whole = np.frombuffer(encoded(image, form, **options), np.uint8)
    faults = 0
    for _ in range(400):
        data = whole.copy()
        where = rng.integers(0, min(len(data), rng.choice([40, 400, len(data)])), rng.integers(1, 6))
        data[where] = rng.integers(0, 256, len(where))
        cut = data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data
        try:
            decode_picture(cut.tobytes(), "a", PictureLimits(max_pixels=10**6), 16, upright=True)
        except DataError:
            faults += 1
    assert faults > 20


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_data_error(data):
    for head in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"II*\x00",
        b"GIF89a",
        b"P6 ",
        b"RIFF\x00\x00\x00\x00WEBP",
    ):
        with pytest.raises(DataError):
            raise_or_fail(head + data)


def raise_or_fail(data: bytes) -> None:
    decode_picture(data, "a", PictureLimits(max_pixels=10**5))
    raise DataError("fine", "random bytes that are a picture")


def write_archive(path: Path, pictures: dict[str, bytes]) -> list[Frame]:
    raw = io.BytesIO()
    frames = []
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for k, (name, data) in enumerate(pictures.items()):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
            offset = raw.tell() - (len(data) + 511) // 512 * 512
            frames.append(Frame("front", k, str(path), "tar", f"{offset}:{len(data)}"))
    path.write_bytes(gzip.compress(raw.getvalue()) if path.suffix == ".gz" else raw.getvalue())
    return frames


@pytest.mark.parametrize("name", ["frames.tar", "frames.tar.gz"])
def test_archives_are_read_by_place_in_any_order(tmp_path, name):
    shades = {f"{k}.png": encoded(np.full((8, 8, 3), 10 * k, np.uint8)) for k in range(10)}
    frames = write_archive(tmp_path / name, shades)
    order = [7, 2, 2, 9, 0]
    for _ in range(2):  # the second window starts before the place where the first one ended
        found = read_window_pictures([frames[k] for k in order], LIMITS)
        assert [int(picture.rgb_HWC[0, 0, 0]) for picture in found] == [10 * k for k in order]


def test_a_damaged_compressed_archive_faults_its_pictures_only(tmp_path):
    frames = write_archive(tmp_path / "frames.tar.gz", {f"{k}.png": encoded(scene()) for k in range(3)})
    path = tmp_path / "frames.tar.gz"
    path.write_bytes(path.read_bytes()[:200])
    found = read_window_pictures(frames, LIMITS)
    assert {code_of(picture) for picture in found} <= {"damaged_archive", "truncated_image", "empty_file"}
