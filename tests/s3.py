"""An S3 server of this machine, in a process of its own, for tests and benchmarks of stores on object storage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec

_START_S = 60
_KEYS = {"AWS_ACCESS_KEY_ID": "nightminer", "AWS_SECRET_ACCESS_KEY": "nightminer", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_bucket(name: str = "bucket") -> Iterator[str]:
    """Yields s3://<name>, reached as users reach theirs: by the environment, which later processes inherit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = {key: os.environ.get(key) for key in (*_KEYS, "AWS_ENDPOINT_URL")}
    os.environ.update(_KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    try:
        _wait(port)
        _forget_filesystems()
        fsspec.filesystem("s3").mkdir(name)
        yield f"s3://{name}"
    finally:
        server.terminate()
        server.wait()
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        _forget_filesystems()


def _wait(port: int) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _forget_filesystems() -> None:
    """They keep the endpoint that they were made with."""
    import s3fs

    from system.logs import files

    files._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
