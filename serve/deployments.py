"""The application on Ray Serve: an ingress that searches, an encoder and a detector that batch.

    serve run serve.deployments:build store=/data/store token_file=/data/tokens.json
    serve deploy serve/config.yaml

Every queue is bounded and every request has an end. The options below are what a small machine takes; `config.yaml`
says them for a cluster, and wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import Field
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.concurrency import run_in_threadpool

from serve.app import create_app
from serve.detector_model import DetectorModel
from serve.encoder_model import EncoderModel
from serve.search_store import SearchStore
from serve.services import DetectorFacts, OverloadedError, Services
from serve.settings import Limits, ServeSettings
from system.config import FrozenConfig
from system.infrared.detections import Detections
from system.store.location import StoreLocation

T = TypeVar("T")
Pixels = NDArray[np.uint8]
# A batch of pictures, of which each takes some hundred milliseconds on a CPU, waits this long for company. One of texts
# is what came while the last was encoded.
_PICTURE_WAIT_S = 0.01
_MOST_TEXTS, _MOST_PICTURES = 32, 8
# A model that was killed is asked again this often, at another replica: its answers change nothing.
_TRIES, _WAIT_S = 4, 0.25
_COMMON: dict[str, Any] = {
    "graceful_shutdown_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 1,
    "health_check_period_s": 5,
    "health_check_timeout_s": 20,
    "backpressure_config": {"status_code": 503, "retry_after_s": 1},
}


class _TextBatches:
    """Texts that come together are encoded together."""

    def __init__(self, model: EncoderModel) -> None:
        self._model = model

    @serve.batch(max_batch_size=_MOST_TEXTS, batch_wait_timeout_s=0)
    async def encode_text(self, texts: list[str]) -> list[NDArray[np.float32]]:
        return await run_in_threadpool(self._model.texts, texts)


@serve.deployment(
    name="encoder",
    max_ongoing_requests=2 * _MOST_TEXTS,
    max_queued_requests=256,
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": _MOST_TEXTS},
    ray_actor_options={"num_cpus": 0.5},
    **_COMMON,
)
class EncoderDeployment:
    """Pictures into the space of the store's embeddings, and texts, where the ingress does not encode them itself."""

    def __init__(self, tower: str, threads: int) -> None:
        self._model = EncoderModel(tower, threads)
        self._texts = _TextBatches(self._model)

    async def check(self) -> None:
        """Whether it answers."""

    async def encode_text(self, text: str) -> NDArray[np.float32]:
        return await self._texts.encode_text(text)

    @serve.batch(max_batch_size=_MOST_PICTURES, batch_wait_timeout_s=_PICTURE_WAIT_S)
    async def encode_image(self, pictures: list[Pixels]) -> list[NDArray[np.float32]]:
        return await run_in_threadpool(self._model.images, pictures)


@serve.deployment(
    name="detector",
    max_ongoing_requests=4 * _MOST_PICTURES,
    max_queued_requests=64,
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": _MOST_PICTURES},
    ray_actor_options={"num_cpus": 0.5},
    **_COMMON,
)
class DetectorDeployment:
    """Infrared pictures into boxes."""

    def __init__(self, folder: str, threads: int) -> None:
        self._model = DetectorModel(folder, threads)

    async def facts(self) -> DetectorFacts:
        return await run_in_threadpool(self._model.facts)

    @serve.batch(max_batch_size=_MOST_PICTURES, batch_wait_timeout_s=_PICTURE_WAIT_S)
    async def detect(self, pictures: list[Pixels]) -> list[tuple[DetectorFacts, Detections]]:
        return await run_in_threadpool(self._model.detect, pictures)


@serve.deployment(
    name="ingress",
    max_ongoing_requests=64,
    max_queued_requests=256,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 32},
    ray_actor_options={"num_cpus": 0.5},
    **_COMMON,
)
@serve.ingress()
class Ingress:
    """The application, with the store in its own process."""

    def __init__(
        self,
        settings: dict[str, Any],
        encoder: DeploymentHandle,
        detector: DeploymentHandle | None,
        text_tower: str | None,
        threads: int,
    ) -> None:
        """text_tower: for texts, in this process; None where the encoder takes them."""
        replica = serve.get_replica_context().replica_id.unique_id
        self._settings = ServeSettings.parse({**settings, "replica": replica}, "settings")
        store = SearchStore(StoreLocation.parse(self._settings.store), self._settings.limits.max_depth)
        found = None if detector is None else RemoteDetector(detector)
        texts = None if text_tower is None else _TextBatches(EncoderModel(text_tower, threads))
        self._services = Services(store, RemoteEncoder(encoder, texts), found)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._services, self._settings)


class RemoteEncoder:
    """`Encoder` by a handle. texts: what encodes texts in this process."""

    def __init__(self, handle: DeploymentHandle, texts: _TextBatches | None = None) -> None:
        self._handle, self._texts = handle, texts

    async def check(self) -> None:
        await asked(lambda: self._handle.check.remote())

    async def encode_text(self, text: str) -> NDArray[np.float32]:
        if self._texts is not None:
            return await self._texts.encode_text(text)
        return await asked(lambda: self._handle.encode_text.remote(text))

    async def encode_image(self, rgb_HWC: Pixels) -> NDArray[np.float32]:
        return await asked(lambda: self._handle.encode_image.remote(rgb_HWC))


class RemoteDetector:
    """`DetectorService` by a handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def describe(self) -> DetectorFacts:
        return await asked(lambda: self._handle.facts.remote())

    async def detect(self, pictures: Sequence[Pixels]) -> list[tuple[DetectorFacts, Detections]]:
        """Each picture by itself, so that the detector mixes those of several clients into its batches."""
        asks = [asked(lambda picture=picture: self._handle.detect.remote(picture)) for picture in pictures]  # type: ignore[misc]
        return list(await asyncio.gather(*asks))


async def asked(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of a model; where its replica died meanwhile, of another.

    Raises:
        OverloadedError: it has more waiting than it takes, or no replica came back in time.
    """
    for attempt in range(_TRIES):
        try:
            return await call()
        except BackPressureError as error:
            raise OverloadedError(str(error)) from error
        except (ActorDiedError, ActorUnavailableError, DeploymentUnavailableError) as error:
            if attempt == _TRIES - 1:
                raise OverloadedError("no replica answers") from error
            await asyncio.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("unreachable")


class BuildArgs(FrozenConfig):
    """What `serve run` and `config.yaml` may say; the first five as in `ServeSettings`.

    tower: of the queries; of the store, where it is not named. texts_in: where texts are encoded: by each `ingress`
    itself, which spares them a process; or by the `encoder`, if the tower wants a GPU or much memory. threads: of
    torch, in each replica of a model.
    """

    store: str
    token_file: str
    detector: str | None = None
    audit_log: str | None = None
    originals: bool = True
    limits: Limits = Limits()
    tower: str | None = None
    texts_in: Literal["ingress", "encoder"] = "ingress"
    threads: int = Field(default=1, ge=1)


def build(values: dict[str, Any]) -> serve.Application:
    """The application, for `serve run`, `serve deploy` and `jobs/serve_store.py`.

    Args:
        values: as of `BuildArgs`.
    Raises:
        ConfigError: an unknown key or a wrong value. StoreError: the store is empty or cannot be read.
    """
    args = BuildArgs.parse(values, "arguments of serve.deployments:build")
    tower = args.tower or SearchStore(StoreLocation.parse(args.store)).tower()
    settings = args.model_dump(mode="json", exclude={"tower", "texts_in", "threads"})
    # Ray's decorators hide from type checkers that these are deployments.
    encoder_class: Any = EncoderDeployment
    detector_class: Any = DetectorDeployment
    ingress_class: Any = Ingress
    encoder = encoder_class.bind(tower, args.threads)
    detector = None if args.detector is None else detector_class.bind(args.detector, args.threads)
    text_tower = tower if args.texts_in == "ingress" else None
    return ingress_class.bind(settings, encoder, detector, text_tower, args.threads)
