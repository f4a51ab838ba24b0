"""What HTTP adds to a search: its median with one client less that of the same query in process, and with 64 at once.

Both encode the text, rank, and read the rows; every text is asked once, so that nothing is remembered. In process the
64 run in as many threads. In turns, in one run, on the same store. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx

from serve.encoder_model import EncoderModel
from serve.models import Weights
from serve.queries import parts_of
from serve.search_store import SearchStore
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from tests.benchmarks.serving import TEXTS, make_store, one_thread, print_figures, served

_CLIENTS = 64
_TOP = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", help="a mined store; without it one is made up")
    parser.add_argument("--scenes", type=int, default=20_000, help="of the store that is made up")
    parser.add_argument("--queries", type=int, default=300, help="of one client, each way")
    parser.add_argument("--burst", type=int, default=2000, help="of 64 clients, each way")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.scenes, arguments.queries, arguments.burst = 2000, 40, 256
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = arguments.store or make_store(folder / "store", arguments.scenes).uri
        with served(folder, store, tokens=8) as server:
            one_thread()
            local = SearchStore(StoreLocation.parse(store))
            encoder = EncoderModel(local.tower())

            def in_process(text: str) -> None:
                vector = encoder.texts([text])[0]
                assert local.search(*local.begin(text), vector, SceneFilter(), parts_of(Weights()), _TOP).rows

            def over_http(text: str) -> None:
                n = hash(text) % len(clients)
                body = {"query": {"kind": "text", "text": text}, "top": _TOP}
                answer = clients[n].post("/v1/search", json=body)
                assert answer.status_code == 200, answer.text

            clients = [
                httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=120)
                for token in server.tokens
            ]
            told = {}
            for way, ask in (("in process", in_process), ("http", over_http)):
                _each_s(ask, 10, f"{way}, to warm up")
                _together_s(ask, 64, f"{way}, to warm up together")
            halves: dict[str, list[float]] = {"in process": [], "http": []}
            for half in range(2):
                for way, ask in (("in process", in_process), ("http", over_http)):
                    halves[way] += _each_s(ask, arguments.queries // 2, f"{way} {half}")
            rates: dict[str, list[float]] = {"in process": [], "http": []}
            for half in range(2):
                for way, ask in (("in process", in_process), ("http", over_http)):
                    rates[way].append(arguments.burst / 2 / _together_s(ask, arguments.burst // 2, f"{way} all {half}"))
            for client in clients:
                client.close()
            http_ms, local_ms = (1000 * statistics.median(halves[way]) for way in ("http", "in process"))
            http_rate, local_rate = (statistics.mean(rates[way]) for way in ("http", "in process"))
            told = {
                "p50_overhead_ms_c1": round(http_ms - local_ms, 2),
                "throughput_share_c64": round(http_rate / local_rate, 3),
                "http_p50_ms_c1": round(http_ms, 2),
                "in_process_p50_ms_c1": round(local_ms, 2),
                "http_per_s_c64": round(http_rate, 1),
                "in_process_per_s_c64": round(local_rate, 1),
                "start_s": round(server.start_s, 1),
            }
    print_figures(told)


def _texts(count: int, salt: str) -> list[str]:
    return [f"{TEXTS[n % len(TEXTS)]}, {salt}, {n}" for n in range(count)]


def _each_s(ask: Callable[[str], None], count: int, salt: str) -> list[float]:
    seconds = []
    for text in _texts(count, salt):
        started_s = time.perf_counter()
        ask(text)
        seconds.append(time.perf_counter() - started_s)
    return seconds


def _together_s(ask: Callable[[str], None], count: int, salt: str) -> float:
    with ThreadPoolExecutor(_CLIENTS) as pool:
        started_s = time.perf_counter()
        list(pool.map(ask, _texts(count, salt)))
        return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
