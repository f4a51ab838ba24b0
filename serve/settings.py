"""What a server is told when it starts."""

from __future__ import annotations

from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Limits(FrozenConfig):
    """What a client may ask for. Sizes in bytes, times in seconds.

    max_json_bytes: of a body that is not an upload; an image to search by travels in it, so it is some megabytes.
    max_upload_bytes: of all pictures of one call together. max_pixels: of one picture, stated by its header.
    max_depth: how far a query's results can be paged. token_concurrency, max_in_flight: requests at a time of one
    token and of all, of one replica; with more replicas a server takes more. request_timeout_s: of a search or a
    detection, all in all, from when its body has come; of each step of any other request, which has up to four.
    export_timeout_s: of writing a set; Ray's own request_timeout_s, and what a proxy in front allows, must be longer.
    """

    max_json_bytes: int = Field(default=12 * 1024**2, ge=1024)
    max_upload_bytes: int = Field(default=64 * 1024**2, ge=1024)
    max_picture_bytes: int = Field(default=16 * 1024**2, ge=1024)
    max_pixels: int = Field(default=16_000_000, ge=1, le=178_956_970)
    max_pictures: int = Field(default=16, ge=1, le=256)
    max_depth: int = Field(default=1000, ge=1, le=10_000)
    max_saved_sets: int = Field(default=1000, ge=1)
    token_concurrency: int = Field(default=32, ge=1)
    max_in_flight: int = Field(default=128, ge=1)
    request_timeout_s: float = Field(default=30.0, gt=0)
    export_timeout_s: float = Field(default=600.0, gt=0)
    retry_after_s: int = Field(default=1, ge=1)


class ServeSettings(FrozenConfig):
    """A server.

    store: folder or URI of the store. token_file: JSON of hashed tokens, see `serve/auth.py`.
    detector: folder of a detector, or None for a server without one.
    audit_log: file that audit lines are appended to; None for the standard log.
    originals: whether pictures may be read from the logs that the store names, beside its own small ones.
    replica: what this process calls itself in its metrics.
    """

    store: str
    token_file: str
    detector: str | None = None
    audit_log: str | None = None
    originals: bool = True
    replica: str = "local"
    limits: Limits = Limits()


class LaunchConfig(FrozenConfig):
    """store, token_file, detector, audit_log, originals, limits, tower, threads: as of `serve.deployments.BuildArgs`.

    token_file: None makes a token that lasts as long as this server, on loopback only.
    """

    store: str
    token_file: str | None = None
    detector: str | None = None
    audit_log: str | None = None
    originals: bool = True
    limits: Limits = Limits()
    tower: str | None = None
    threads: int = Field(default=1, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)

    def check(self) -> None:
        """
        Raises:
            ConfigError: without tokens on an address that others reach.
        """
        if self.token_file is None and self.host not in _LOOPBACK:
            raise ConfigError(
                f"--host {self.host} is reached from other machines: name a --token-file (jobs/make_token.py makes one)"
            )
