"""Fingerprints of saved models, taken in processes of their own, and the certificate that compares them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from system.backbones.loading import load_tower
from system.backbones.runtime import Runtime
from system.errors import GuardError, ModelError
from system.miner.guard import Fingerprint, Shares, answer_share, fingerprint_shares, refuse_moved
from system.miner.identity import WEIGHTS_NAME, read_saved, saved_model_id
from system.miner.model import SceneMiner
from system.miner.remembered_tower import RememberedTower
from system.miner.scene_batch import SceneFeatures
from system.training.records import CERTIFICATE_NAME, PROBE_NAME, Certificate, SiblingOutput, read_certificate

# The numbers of workers that share the probe's batches.
WORLDS = (1, 2)
# One thread: how a sum is divided among threads may change its last bit.
_THREADS = 1
# One full batch of 16 and a part of one.
PROBE_SCENES = 20
_LIBRARIES = ("torch", "numpy", "safetensors", "ray")


def choose_probe(features: SceneFeatures) -> SceneFeatures:
    """The fixed probe batch: scenes spread evenly over those at hand."""
    count = min(PROBE_SCENES, len(features))
    return features.rows(torch.linspace(0, len(features) - 1, count).round().long())


def save_probe(folder: Path, probe: SceneFeatures) -> None:
    """Write the probe beside a model."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in probe.tensors().items()}, folder / PROBE_NAME)


def load_probe(folder: Path) -> SceneFeatures:
    """Raises ModelError: the probe is missing or damaged."""
    try:
        return SceneFeatures.of(load_file(folder / PROBE_NAME))
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / PROBE_NAME}: expected the probe of a certificate: {error}") from error


def fingerprint_saved(
    folder: Path, tower: RememberedTower, probe_folder: Path, leave_out: Iterable[str] = ()
) -> list[Fingerprint]:
    """What the heads of a saved model answer to a probe, asked of one worker and of two.

    Raises:
        ModelError: the model or the probe is damaged.
    """
    left_out = tuple(leave_out)
    # Workers may run in another folder.
    folder, probe_folder = folder.absolute(), probe_folder.absolute()
    asked: Any = ray.remote(num_cpus=_THREADS)(_answer_saved)
    tasks = [
        [asked.remote(str(folder), tower, str(probe_folder), rank, world, left_out) for rank in range(world)]
        for world in WORLDS
    ]
    found = []
    for answers in tasks:
        shares = []
        for answer in ray.get(answers):
            if isinstance(answer, str):
                raise ModelError(answer)
            shares.append(answer)
        found += fingerprint_shares(shares)
    return found


def certify(
    *, head: str, tower: RememberedTower, base: Path, candidate: Path, data_sha256: str, trained_parameters: int
) -> Certificate:
    """Compare a saved candidate, whose probe lies beside it, with the saved base that it grew from.

    Raises:
        GuardError: a sibling of `head` moved: which, and by how much at most.
    """
    expected = fingerprint_saved(base, tower, candidate, leave_out=[head])
    actual = fingerprint_saved(candidate, tower, candidate, leave_out=[head])
    after, before = SceneMiner.load(candidate, tower), SceneMiner.load(base, tower)
    refuse_moved(after, before, load_probe(candidate), expected, actual)
    return Certificate(
        head=head,
        model_id=after.model_id,
        base_model_id=before.model_id,
        checkpoint_sha256=_sha256_of(candidate / WEIGHTS_NAME),
        base_checkpoint_sha256=_sha256_of(base / WEIGHTS_NAME),
        probe_sha256=_sha256_of(candidate / PROBE_NAME),
        data_sha256=data_sha256,
        tower=tower.name,
        tower_id=tower.tower_id,
        trained_parameters=trained_parameters,
        siblings=tuple(SiblingOutput(**vars(fingerprint)) for fingerprint in expected),
        device="cpu",
        machine=_machine(),
        threads=_THREADS,
        libraries=library_versions(),
        created=now(),
    )


def verify_certificate(folder: Path, base: Path | None = None) -> Certificate:
    """Ask a certified model again.

    Args:
        base: the model that it grew from, where that is at hand; it is then asked too.
    Raises:
        ModelError: a file is missing or not the one that was certified.
        GuardError: an answer is not what the certificate says, or it says nothing of one: which.
    """
    certificate = read_certificate(folder)
    wanted = {
        folder / WEIGHTS_NAME: certificate.checkpoint_sha256,
        folder / PROBE_NAME: certificate.probe_sha256,
    } | ({base / WEIGHTS_NAME: certificate.base_checkpoint_sha256} if base is not None else {})
    for file, expected in wanted.items():
        if (actual := _sha256_of(file)) != expected:
            raise ModelError(f"{file}: not the file that was certified: expected SHA-256 {expected}, got {actual}")
    models = {folder: certificate.model_id} | ({base: certificate.base_model_id} if base is not None else {})
    loaded = load_tower(certificate.tower, Runtime(threads=_THREADS))
    for model, model_id in models.items():
        if (actual := saved_model_id(model, certificate.tower_id)) != model_id:
            raise ModelError(f"{model}: not the model that was certified: expected id {model_id}, got {actual}")
        described = read_saved(model, certificate.tower_id).described
        tower = RememberedTower.of(loaded, described.taxonomy)
        answers = fingerprint_saved(model, tower, folder, leave_out=[certificate.head])
        found = {SiblingOutput(**vars(answer)) for answer in answers}
        _refuse_gaps(certificate, found, folder)
        _refuse_differences(certificate, found, model)
    return certificate


def library_versions() -> dict[str, str]:
    """Of Python and the libraries that the numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _answer_saved(
    folder: str, tower: RememberedTower, probe_folder: str, rank: int, world: int, leave_out: Sequence[str]
) -> Shares | str:
    """In a worker: this rank's part, or what is wrong with the model."""
    torch.set_num_threads(_THREADS)
    try:
        miner = SceneMiner.load(folder, tower)
        return answer_share(miner, load_probe(Path(probe_folder)), rank, world, leave_out)
    except ModelError as error:
        return str(error)


def _refuse_gaps(certificate: Certificate, found: set[SiblingOutput], folder: Path) -> None:
    """A certificate speaks of every answer of every sibling, or of nothing."""
    expected, told = ({_question(answer) for answer in answers} for answers in (found, certificate.siblings))
    if gaps := sorted(expected - told):
        head, output, dtype, size, workers = gaps[0]
        raise GuardError(
            f"{folder / CERTIFICATE_NAME}: says nothing of {len(gaps)} of {len(expected)} outputs, the first of head "
            f"{head!r} (output {output}, {dtype}, batches of {size}, {workers} workers)"
        )


def _question(answer: SiblingOutput) -> tuple[str, int, str, int, int]:
    return answer.head, answer.output, answer.dtype, answer.batch_size, answer.workers


def _refuse_differences(certificate: Certificate, found: set[SiblingOutput], model: Path) -> None:
    differing = [sibling for sibling in certificate.siblings if sibling not in found]
    if not differing:
        return
    first = differing[0]
    libraries = library_versions()
    others = [
        f"{name} {version} then, {libraries.get(name, 'none')} now"
        for name, version in certificate.libraries.items()
        if libraries.get(name) != version
    ] + ([f"{certificate.machine} then, {_machine()} now"] if certificate.machine != _machine() else [])
    because = f"; computed on something else: {', '.join(others)}" if others else ""
    raise GuardError(
        f"{model}: {len(differing)} of {len(certificate.siblings)} certified outputs differ, the first of head "
        f"{first.head!r} ({first.dtype}, batches of {first.batch_size}, {first.workers} workers){because}"
    )


def _machine() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _sha256_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
