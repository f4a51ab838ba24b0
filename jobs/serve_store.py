"""Serve a store over HTTP on this machine: search, infrared detection, the review page."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from serve.ray_environment import set_serve_environment
from system.pipelines.ray_environment import set_ray_environment
from system.report.console import exit_with_code

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    store: Annotated[str, typer.Option(help="Store that jobs/mine_fleet.py filled.")],
    token_file: Annotated[str | None, typer.Option(help="Of jobs/make_token.py; without, a token is printed.")] = None,
    detector: Annotated[str | None, typer.Option(help="Folder of jobs/train_detector.py; may be exchanged.")] = None,
    tower: Annotated[str | None, typer.Option(help="Of the queries; the store's own, if not given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, in each replica of a model.")] = 1,
    originals: Annotated[bool, typer.Option(help="Show pictures from the logs beside the store's small ones.")] = True,
    audit_log: Annotated[str | None, typer.Option(help="File for a line a request.")] = None,
    host: Annotated[str, typer.Option(help="To listen on; others than loopback need --token-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve until Ctrl-C or SIGTERM; what was begun is answered first.

    For a cluster: `serve deploy serve/config.yaml`.
    """
    started_s = time.monotonic()
    set_ray_environment()
    set_serve_environment()
    from serve.launch import LaunchConfig, launched, wait_for_a_signal

    with exit_with_code():
        config = LaunchConfig.parse(
            {
                "store": store, "token_file": token_file, "detector": detector, "audit_log": audit_log,
                "originals": originals, "tower": tower, "threads": threads, "host": host, "port": port,
            },
            "options",
        )  # fmt: skip
        with launched(config) as (url, token):
            print(f"serving {store} after {time.monotonic() - started_s:.1f} s at {url}", file=sys.stderr)
            if token is not None:
                # After # so that no server and no log ever sees it. It is shown this once.
                print(f"{url}/#token={token}", flush=True)
            wait_for_a_signal()
            print("ending: requests under way are answered", file=sys.stderr)


if __name__ == "__main__":
    app()
