"""Pictures that strangers upload: what is decoded, what is refused and why, and that memory stays flat."""

from __future__ import annotations

import asyncio
import base64
import io
import resource
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from serve import detector_model
from serve.detector_model import DetectorModel
from serve.routes import health, infrared
from serve.settings import Limits
from system.errors import ConfigError, ModelError
from system.pairs.pixels import InfraredMapping
from tests.benchmarks.serving import make_detector
from tests.serving import Server, encoded, jpeg, make_server

GREY = Image.fromarray(np.tile(np.linspace(0, 255, 60, dtype=np.uint8), (40, 1)))
MB = 1024**2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return make_server(tmp_path_factory.mktemp("uploads"))


def detect(server: Server, *pictures: bytes, query: str = "", names: tuple[str, ...] = (), **options) -> httpx.Response:
    files = [
        ("pictures", (names[n] if names else f"{n}.png", data, "application/octet-stream"))
        for n, data in enumerate(pictures)
    ]
    return post(server, f"/v1/ir/detect{query}", files=files, **options)


def post(server: Server, path: str, method: str = "POST", **options) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(server.app)
        headers = server.token("detect") | options.pop("headers", {})
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as session:
            return await session.request(method, path, **options)

    return asyncio.run(once())


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(GREY, "JPEG", exif=exif)


def sixteen_bits() -> bytes:
    values = np.tile(np.linspace(7000, 9000, 60).astype(np.uint16), (40, 1))
    return encoded(Image.fromarray(values), "TIFF")


def bomb(side: int = 40_000) -> bytes:
    """A PNG of 70 KB or so that states 1.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(MB))) + chunk(b"IEND", b"")
    )


def animated(kind: str) -> bytes:
    frames = [GREY, Image.fromarray(np.zeros((40, 60), np.uint8))]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "empty_file"),
        (encoded(GREY, "PNG")[:-30], 422, "truncated_image"),
        (jpeg(size=(400, 400))[:2000], 422, "truncated_image"),
        (b"GIF89a" + b"\0" * 100, 415, "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "not_an_image"),
        (bomb(), 413, "too_large"),
        (bomb(4001), 413, "too_large"),
        (animated("WEBP"), 422, "animated"),
        (animated("PNG"), 422, "animated"),
        (animated("TIFF"), 422, "animated"),
        (encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), 422, "not_finite"),
    ],
    ids=[
        "0 bytes", "truncated png", "truncated jpeg", "gif", "svg", "postscript", "bomb", "just too many pixels",
        "animated webp", "animated png", "pages of tiff", "not a number",
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_with_its_reason(server, data, status, code):
    answer = detect(server, data)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["detail"].startswith("0.png: ") and answer.headers["content-type"].endswith("problem+json")


@pytest.mark.parametrize(
    ("data", "bits", "size", "is_coloured"),
    [
        (encoded(GREY, "PNG"), 8, (60, 40), False),
        (encoded(GREY, "JPEG"), 8, (60, 40), False),
        (encoded(GREY, "WEBP"), 8, (60, 40), False),
        (rotated(), 8, (40, 60), False),
        (sixteen_bits(), 16, (60, 40), False),
        (encoded(GREY.convert("CMYK"), "JPEG"), 8, (60, 40), False),
        (encoded(GREY.convert("RGBA"), "PNG"), 8, (60, 40), False),
        (encoded(GREY.convert("P"), "PNG", transparency=0), 8, (60, 40), False),
        (encoded(GREY.convert("1"), "BMP"), 8, (60, 40), False),
        (encoded(Image.new("RGB", (60, 40), (250, 20, 20)), "PNG"), 8, (60, 40), True),
    ],
    ids=["png", "jpeg", "webp", "rotated", "16 bits", "cmyk", "alpha", "palette", "1 bit", "coloured"],
)
def test_what_is_a_picture_is_looked_at(server, data, bits, size, is_coloured):
    answer = detect(server, data, query="?preview=true")
    assert answer.status_code == 200, answer.text
    picture = answer.json()["pictures"][0]
    assert (picture["bits"], picture["width"], picture["height"]) == (bits, *size)
    assert picture["is_coloured"] == is_coloured and bool(picture["notes"]) == is_coloured
    # The detector's box is its middle, in its own 48x32 pixels; the answer's is in the picture's.
    assert picture["detections"] == [
        {"box": [size[0] / 4, size[1] / 4, 3 * size[0] / 4, 3 * size[1] / 4], "score": 0.9, "label": "person"}
    ]
    shown = Image.open(io.BytesIO(base64.b64decode(picture["preview_jpeg"])))
    assert shown.size == size and shown.format == "JPEG"
    assert server.detector.seen[-1].shape == (32, 48)


def test_a_turned_picture_is_upright_and_16_bits_use_their_range(server):
    detect(server, rotated())
    turned = server.detector.seen[-1].astype(int)
    assert turned[-1].mean() > turned[0].mean() + 200  # the gradient runs down and not to the right
    detect(server, sixteen_bits())
    assert server.detector.seen[-1].min() < 10 and server.detector.seen[-1].max() > 245


def test_of_many_pictures_the_bad_ones_are_told_beside_the_answers(server):
    answer = detect(server, encoded(GREY, "PNG"), b"", encoded(GREY, "JPEG"), b"junk", query="?min_score=0.95")
    assert answer.status_code == 200
    pictures = answer.json()["pictures"]
    assert [picture["problem"] and picture["problem"]["code"] for picture in pictures] == [
        None, "empty_file", None, "not_an_image",
    ]  # fmt: skip
    assert [picture["name"] for picture in pictures] == ["0.png", "1.png", "2.png", "3.png"]
    assert all(picture["detections"] == [] for picture in pictures)  # under the score that was asked for
    none = detect(server, b"", b"junk")
    assert none.status_code == 422 and "none of 2 pictures" in none.json()["detail"]


def test_names_are_shown_and_never_opened(server):
    name = "../../etc/passwd\x07\n<script>"
    answer = detect(server, encoded(GREY, "PNG"), names=(name,))
    assert answer.status_code == 200 and "\n" not in answer.json()["pictures"][0]["name"]
    assert len(detect(server, encoded(GREY, "PNG"), names=("x" * 1000,)).json()["pictures"][0]["name"]) <= 200


def test_uploads_that_are_none_are_refused(server):
    png = encoded(GREY, "PNG")
    assert post(server, "/v1/ir/detect", content=png).status_code == 415
    assert post(server, "/v1/ir/detect", json={"pictures": "http://127.0.0.1/secret.png"}).status_code == 415
    assert post(server, "/v1/ir/detect", files={"other": ("a.png", png)}).status_code == 422
    assert post(server, "/v1/ir/detect", data={"pictures": "file:///etc/passwd"}, files={}).status_code in (415, 422)
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (b"", b"--x\r\n", b"--x--\r\n", b"no parts at all", b"--x\r\nContent-Disposition: nonsense\r\n\r\n"):
        answer = post(server, "/v1/ir/detect", content=content, headers=broken)
        assert answer.status_code in (400, 422), (content, answer.text)
    no_boundary = post(server, "/v1/ir/detect", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert no_boundary.status_code in (400, 422)


def test_there_are_only_so_many_pictures_and_bytes_in_a_call(tmp_path):
    server = make_server(tmp_path, Limits(max_pictures=2, max_picture_bytes=2000, max_upload_bytes=8000))
    png = encoded(GREY, "PNG")
    assert detect(server, png, png).status_code == 200
    assert detect(server, png, png, png).status_code in (400, 413)
    assert detect(server, png, bytes(3000)).json()["pictures"][1]["problem"]["code"] == "too_large"
    assert detect(server, bytes(90_000)).json()["code"] == "body_too_large"


def test_a_hundred_megabytes_are_refused_before_they_are_read(server):
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b"--x\r\nContent-Disposition: form-data; name=pictures; filename=a\r\n\r\n"
        for _ in range(100):
            sent += 1
            yield bytes(MB)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    stated = post(server, "/v1/ir/detect", content=body(), headers=headers | {"Content-Length": str(100 * MB)})
    assert stated.status_code == 413 and stated.json()["code"] == "body_too_large" and sent <= 2
    sent = 0
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unstated = post(server, "/v1/ir/detect", content=body(), headers=headers)
    assert unstated.status_code == 413 and sent < 70
    # What is taken before the limit lies in a file and not in memory.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 40 * 1024
    big = post(server, "/v1/search", content=bytes(13 * MB), headers={"Content-Type": "application/json"})
    assert big.status_code == 413 or big.status_code == 403


def test_memory_stays_flat_over_many_uploads(server):
    picture, wrong = encoded(GREY.resize((1200, 900)), "PNG"), bomb()
    detect(server, picture, wrong)
    server.detector.seen.clear()
    tracemalloc.start()
    try:
        for _ in range(3):
            detect(server, picture, wrong)
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(15):
            detect(server, picture, wrong)
            server.detector.seen.clear()
        assert tracemalloc.get_traced_memory()[0] - first < 0.5 * MB
    finally:
        tracemalloc.stop()


def test_a_busy_or_missing_detector_says_so(tmp_path):
    server = make_server(tmp_path / "a")
    server.detector.is_busy = True
    busy = detect(server, encoded(GREY, "PNG"))
    assert busy.status_code == 503 and busy.json()["code"] == "detector_busy" and busy.headers["retry-after"] == "1"
    none = make_server(tmp_path / "b", with_detector=False)
    assert detect(none, encoded(GREY, "PNG")).json()["code"] == "no_detector"


def test_all_pictures_of_a_call_are_told_by_one_detector_and_its_own_classes(tmp_path, monkeypatch):
    server = make_server(tmp_path)
    monkeypatch.setattr(infrared, "_WAIT_S", 0)
    old, new = server.detector.facts, replace(server.detector.facts, detector_id="e" * 16, classes=("elk",))
    inner, asked = server.detector.detect, []

    async def exchanged(pictures):
        """The first call is half of the old detector, half of the new one."""
        asked.append(len(pictures))
        answers = await inner(pictures)
        server.detector.facts = new
        return answers if len(asked) > 1 else [(old, answers[0][1]), *((new, found) for _, found in answers[1:])]

    server.detector.detect = exchanged
    answer = detect(server, encoded(GREY, "PNG"), b"junk", encoded(GREY, "PNG")).json()
    assert (answer["detector_id"], answer["classes"], asked) == ("e" * 16, ["elk"], [2, 2])
    assert [[d["label"] for d in picture["detections"]] for picture in answer["pictures"]] == [["elk"], [], ["elk"]]

    async def never_the_same(pictures):
        return [(old, found) for _, found in await inner(pictures)]

    server.detector.detect = never_the_same
    refused = detect(server, encoded(GREY, "PNG"))
    assert (refused.status_code, refused.json()["code"]) == (503, "detector_exchanged")


def test_a_server_is_ready_when_its_models_answer_and_in_time(tmp_path, monkeypatch):
    server = make_server(tmp_path)
    monkeypatch.setattr(health, "_ANSWERS_WITHIN_S", 0.05)
    monkeypatch.setattr(health, "_KEPT_S", 0)
    everything = {"store": "ok", "tokens": "ok", "encoder": "ok", "detector": "ok"}

    def told() -> tuple[int, str, dict]:
        answer = post(server, "/readyz", method="GET")
        return answer.status_code, answer.json()["status"], answer.json()["checks"]

    async def broken() -> None:
        raise ModelError("damaged")

    assert told() == (200, "ok", everything)
    server.encoder.is_busy = True
    assert told() == (200, "busy", everything | {"encoder": "busy"})
    server.encoder.is_busy = False
    server.detector.describe = asyncio.Event().wait
    assert told() == (200, "busy", everything | {"detector": "busy"})
    server.detector.describe = broken
    assert told() == (503, "not ready", everything | {"detector": "unavailable"})
    server.encoder.is_busy = True
    monkeypatch.setattr(health, "_KEPT_S", 60)
    assert told()[2] == everything | {"detector": "unavailable"}, "whoever asks at once asks no model"


def test_a_detector_is_exchanged_while_it_serves_and_a_damaged_one_is_not(tmp_path, caplog):
    folder = make_detector(tmp_path / "detector", "test_vit")
    model = DetectorModel(str(folder), look_every_s=0)
    first = model.facts().detector_id
    picture = np.zeros((64, 96), np.uint8)
    assert [of.detector_id for of, _ in model.detect([picture, picture])] == [first, first]
    (folder / "detector.safetensors").write_bytes(b"half written")
    assert model.detect([picture])[0][0].detector_id == first and "goes on" in caplog.text
    make_detector(folder, "test_vit", seed=1)
    second = model.facts().detector_id
    assert second != first and model.detect([picture])[0][0].detector_id == second


class FakeLoaded:
    """A detector whose findings say which it is. during: called while it looks."""

    size = (32, 48)

    def __init__(self, name: str, during: Callable[[], object] = lambda: None) -> None:
        self.name, self.during = name, during
        self.config = SimpleNamespace(classes=(name,), mapping=InfraredMapping())

    def to(self, _: object) -> FakeLoaded:
        return self

    def detect(self, pictures: Sequence[np.ndarray]) -> list[str]:
        self.during()
        return [self.name for _ in pictures]


def faked(folder: Path, monkeypatch: pytest.MonkeyPatch, loads: list[FakeLoaded | Exception]) -> DetectorModel:
    """A model that loads these, one after the other, whenever `weights.safetensors` has another size."""

    def load(_: Path) -> FakeLoaded:
        loaded = loads.pop(0)
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    monkeypatch.setattr(detector_model, "detector_id", lambda _: loads[0].name if hasattr(loads[0], "name") else "?")
    monkeypatch.setattr(detector_model, "Detector", SimpleNamespace(load=load))
    return DetectorModel(str(folder), look_every_s=0)


def test_what_the_old_detector_found_is_told_by_its_own_facts(tmp_path, monkeypatch):
    def exchange() -> None:
        (tmp_path / "weights.safetensors").write_bytes(b"new")
        assert model.facts().detector_id == "new"

    model = faked(tmp_path, monkeypatch, [FakeLoaded("old", exchange), FakeLoaded("new")])
    picture = np.zeros((4, 4), np.uint8)
    assert [(of.detector_id, found) for of, found in model.detect([picture])] == [("old", "old")]
    assert [(of.detector_id, found) for of, found in model.detect([picture])] == [("new", "new")]


@pytest.mark.parametrize("error", [ConfigError("num_classes: expected 2"), RuntimeError("CUDA out of memory")])
def test_whatever_keeps_a_detector_from_being_loaded_the_old_one_goes_on(tmp_path, monkeypatch, caplog, error):
    model = faked(tmp_path, monkeypatch, [FakeLoaded("old"), error, FakeLoaded("new")])
    (tmp_path / "weights.safetensors").write_bytes(b"wrong")
    assert [model.facts().detector_id for _ in range(3)] == ["old"] * 3
    assert caplog.text.count("goes on") == 1 and str(error) in caplog.text
    (tmp_path / "weights.safetensors").write_bytes(b"mended")
    assert model.facts().detector_id == "new"
