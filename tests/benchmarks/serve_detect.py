"""How much of the bare detector's speed serving keeps: served images a second / bare batched images a second.

Both with the same detector, threads and pictures, in one run; the bare detector is measured before and after, in
batches of the size that serving makes at most, on pictures that are decoded already. Prints one JSON
object as its last line.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
from PIL import Image

from system.infrared.detector import Detector
from system.pairs.files import list_pictures
from system.pairs.pixels import decode_infrared
from system.pairs.resize import fit_picture
from tests.benchmarks.serving import make_detector, make_store, one_thread, print_figures, served

_BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a detector; without it one is made, untrained")
    parser.add_argument("--images", help="folder of infrared pictures; without it some are made")
    parser.add_argument("--seconds", type=float, default=60.0, help="of serving")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=4, help="of one call")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds = 20.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or str(make_detector(folder / "detector"))
        data = _pictures(arguments.images)
        store = make_store(folder / "store", 100).uri
        with served(folder, store, "--detector", model, tokens=4) as server:
            one_thread()
            detector = Detector.load(model)
            decoded = [fit_picture(decode_infrared(one, "picture").pixels_HW, detector.size) for one in data]
            before = _bare_per_s(detector, decoded, arguments.seconds / 4)
            served_rate, problems = _served_per_s(server.url, server.tokens, data, arguments)
            after = _bare_per_s(detector, decoded, arguments.seconds / 4)
        print_figures(
            {
                "detections_share": round(served_rate / ((before + after) / 2), 3),
                "served_images_per_s": round(served_rate, 2),
                "bare_before_after": [round(before, 2), round(after, 2)],
                "problems": problems,
                "start_s": round(server.start_s, 1),
            }
        )


def _pictures(folder: str | None) -> list[bytes]:
    if folder is not None:
        return [Path(uri).read_bytes() for uri in list_pictures([folder])[:32]]
    rng, made = np.random.default_rng(0), []
    for _ in range(16):
        small = Image.fromarray(rng.integers(0, 255, (16, 20), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((640, 512), Image.Resampling.BICUBIC).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


def _bare_per_s(detector: Detector, decoded: list[np.ndarray], seconds: float) -> float:
    detector.detect(decoded[:_BATCH])
    count, started_s = 0, time.perf_counter()
    while time.perf_counter() - started_s < seconds:
        detector.detect([decoded[(count + k) % len(decoded)] for k in range(_BATCH)])
        count += _BATCH
    return count / (time.perf_counter() - started_s)


def _served_per_s(
    url: str, tokens: tuple[str, ...], data: list[bytes], arguments: argparse.Namespace
) -> tuple[float, dict[str, int]]:
    done, problems, lock = 0, dict[str, int](), threading.Lock()
    started_s = time.perf_counter() + 3.0  # until then batches fill
    end_s = started_s + arguments.seconds

    def client(n: int) -> None:
        nonlocal done
        files = [("pictures", (f"{k}.png", data[(n + k) % len(data)])) for k in range(arguments.pictures)]
        headers = {"Authorization": f"Bearer {tokens[n % len(tokens)]}"}
        with httpx.Client(base_url=url, headers=headers, timeout=120) as session:
            while time.perf_counter() < end_s:
                answer = session.post("/v1/ir/detect", files=files)
                with lock:
                    if answer.status_code != 200:
                        problems[str(answer.status_code)] = problems.get(str(answer.status_code), 0) + 1
                    elif started_s <= time.perf_counter() <= end_s:
                        done += arguments.pictures

    with ThreadPoolExecutor(arguments.clients) as pool:
        list(pool.map(client, range(arguments.clients)))
    return done / arguments.seconds, problems


if __name__ == "__main__":
    main()
