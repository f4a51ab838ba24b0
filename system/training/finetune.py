"""Upgrade one head of a model, or add one of the user's own, without moving any other by a bit."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from system.backbones.loading import describe_tower, load_tower
from system.backbones.runtime import Runtime
from system.config import FrozenConfig
from system.drafts import new_draft, publish_draft, refuse_existing
from system.errors import ConfigError, DataError, GuardError
from system.labels.table import ABSENT, PRESENT
from system.miner.identity import SavedMiner, read_saved
from system.miner.miner_config import HEADS, OwnHead
from system.miner.model import SceneMiner
from system.miner.remembered_tower import RememberedTower
from system.miner.taxonomy import Taxonomy
from system.pipelines.resources import check_workers, connect_to_ray
from system.report.console import ConsoleProgress
from system.training.base import describe_training
from system.training.certificate import certify, choose_probe, save_probe
from system.training.config import TrainConfig
from system.training.examples import Examples, SourceConfig, decided_parts, gather, known_scenes, split_examples
from system.training.publish import write_card, write_history
from system.training.records import CERTIFICATE_NAME, TrainingRecord, read_training, write_record
from system.training.run import Recipe, discard_run, train_on_ray

_MAX_HEAD_FILE_BYTES = 1 << 20


class UpgradeConfig(FrozenConfig):
    """base: folder of the model. head: its head to upgrade, or the name of `own_head`.

    leave_out: tags of the taxonomy that are not to be trained, because nothing shows them.
    """

    base: str
    head: str
    own_head: OwnHead | None = None
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class UpgradeResult:
    """A published upgrade."""

    checkpoint: str
    model_id: str
    head: str
    trained_parameters: int
    siblings_identical: bool
    certificate: str
    scenes: dict[str, int]
    best_epoch: int
    epochs: int
    figures: dict[str, float]


def finetune_head(
    source: SourceConfig,
    upgrade: UpgradeConfig,
    taxonomy: Taxonomy | None,
    config: TrainConfig,
    out: Path,
    progress: ConsoleProgress,
) -> UpgradeResult:
    """Train one new reader of one head and publish the model at `out` with its certificate.

    Args:
        taxonomy: the tags that the user believes the base to have; None to take the base's.
    Raises:
        ConfigError, DataError, ModelError: the base, the head, the labels or the tags do not fit; checked first.
        GuardError: a sibling moved; nothing is published.
    """
    refuse_existing(out)
    progress.phase("checking the base")
    saved = read_saved(upgrade.base, describe_tower(source.tower).tower_id).described
    _check(upgrade, saved, taxonomy, source)
    own_head = upgrade.own_head or next((h for h in saved.own_heads if h.name == upgrade.head), None)
    # Weights are read whole before any picture is.
    tower = RememberedTower.of(load_tower(source.tower, Runtime()), saved.taxonomy)
    base_id = SceneMiner.load(upgrade.base, tower).model_id
    earlier = read_training(upgrade.base)

    def divided(examples: Examples) -> tuple[dict[str, Examples], dict[str, int]]:
        parts = split_examples(examples, decided_parts(examples.labels, earlier), source.test_share)
        positives = _refuse_untaught(upgrade.head, own_head, saved.taxonomy, parts["train"], upgrade.leave_out)
        if not known_scenes(upgrade.head, parts["val"], own_head is not None):
            raise DataError(
                "nothing_to_judge",
                f"head {upgrade.head!r}: nothing is known of the {len(parts['val'])} validation scenes, by which the "
                "epoch is chosen; add labelled logs of other groups",
            )
        return parts, positives

    examples = gather(source, saved.taxonomy, progress, own_head, divided)
    parts, positives = divided(examples)
    recipe = Recipe(
        tower=source.tower,
        taxonomy=saved.taxonomy,
        config=config,
        base=str(Path(upgrade.base).absolute()),
        head=upgrade.head,
        own_head=own_head,
        untrained_tags=_untrained(upgrade, saved.taxonomy, positives, progress),
    )
    run_folder = out.with_name(f".{out.name}.training")
    progress.phase(f"training head {upgrade.head} on {len(parts['train'])} scenes, judged on {len(parts['val'])}")
    connect_to_ray()
    check_workers(config.workers, config.threads_per_worker, config.use_gpu, progress.note)
    trained = train_on_ray(recipe, tower, parts["train"], parts["val"], run_folder)
    folder = new_draft(out)
    trained.miner.save(folder)
    progress.phase("asking every sibling, before and after")
    probe_examples = parts["train"]
    save_probe(folder, choose_probe(trained.miner.features_of(probe_examples.lifted())))
    try:
        certificate = certify(
            head=upgrade.head,
            tower=tower,
            base=Path(upgrade.base),
            candidate=folder,
            data_sha256=examples.sha256(),
            trained_parameters=trained.trained_parameters,
        )
    except GuardError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_record(folder, CERTIFICATE_NAME, certificate)
    training = describe_training(upgrade.head, source, config, parts, examples, trained, base_id, positives)
    write_history(folder, trained.progress.history, trained.progress.best_epoch)
    write_card(folder, trained.miner, TrainingRecord(trainings=(*(earlier.trainings if earlier else ()), training)))
    publish_draft(folder, out)
    discard_run(run_folder)
    return UpgradeResult(
        checkpoint=str(out),
        model_id=trained.miner.model_id,
        head=upgrade.head,
        trained_parameters=trained.trained_parameters,
        siblings_identical=True,
        certificate=str(out / CERTIFICATE_NAME),
        scenes=training.scenes,
        best_epoch=training.best_epoch,
        epochs=training.epochs,
        figures=training.figures,
    )


def load_own_head(path: str | Path) -> OwnHead:
    """Read a user's own head from a TOML file with `name` and `tags`.

    Raises:
        ConfigError: the file is missing, too large, no TOML, or a value is wrong.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_HEAD_FILE_BYTES:
            raise ConfigError(f"{file}: {file.stat().st_size} bytes, expected at most {_MAX_HEAD_FILE_BYTES}")
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected TOML in UTF-8: {error}") from error
    return OwnHead.parse(values, where=str(file))


def _check(upgrade: UpgradeConfig, saved: SavedMiner, taxonomy: Taxonomy | None, source: SourceConfig) -> None:
    """Everything that can be known to be wrong from the base's description."""
    own_names = [head.name for head in saved.own_heads]
    if taxonomy is not None and taxonomy != saved.taxonomy:
        changed = sorted(set(taxonomy.names) ^ set(saved.taxonomy.names)) or ["prompts or order"]
        raise ConfigError(
            f"--taxonomy: model {upgrade.base} was made for another one (differs in {', '.join(changed)}); train a new "
            "base, or add a head of your own for new tags"
        )
    if upgrade.own_head is not None:
        if upgrade.own_head.name in own_names:
            raise ConfigError(
                f"model {upgrade.base} has a head {upgrade.own_head.name!r} already; upgrade it with --head "
                f"{upgrade.own_head.name} without --own-head, or choose another name"
            )
        known = sorted(set(upgrade.own_head.tags) & set(saved.tag_names))
        if known:
            raise ConfigError(f"--own-head: model {upgrade.base} has these tags already: {', '.join(known)}")
    elif upgrade.head not in (*HEADS, *own_names):
        raise ConfigError(
            f"no head {upgrade.head!r} in model {upgrade.base}; it has {', '.join((*HEADS, *own_names))}. A new one "
            "needs --own-head FILE"
        )
    if (upgrade.own_head is not None or upgrade.head in own_names) and not source.own_labels:
        raise ConfigError(f"head {upgrade.head!r} needs --own-labels: CSV with scene_id (or log id), tag, value")
    unknown = sorted(set(upgrade.leave_out) - set(saved.taxonomy.names))
    if unknown:
        raise ConfigError(f"--leave-out: the model has no tags {', '.join(unknown)}")


def _refuse_untaught(
    head: str, own_head: OwnHead | None, taxonomy: Taxonomy, train: Examples, leave_out: tuple[str, ...]
) -> dict[str, int]:
    """Training scenes with each tag that the head learns; refuse what nothing can teach."""
    labels = train.labels
    if head == "risk":
        return _refuse_none(known_scenes(head, train), head, "tracks of road users and pictures")
    if head == "forecast":
        return _refuse_none(known_scenes(head, train), head, "an ego path of 3 s beyond its end")
    names, values = (own_head.tags, train.own_NL) if own_head is not None else (taxonomy.names, labels.values_NK)
    seen = values[labels.has_pictures_N]
    present, absent = (seen == PRESENT).sum(0), (seen == ABSENT).sum(0)
    always = [name for k, name in enumerate(names) if present[k] and not absent[k] and name not in leave_out]
    if always and own_head is not None:
        raise DataError(
            "no_negative",
            f"head {head!r}: every labelled training scene with pictures shows {', '.join(always)}; add rows of scenes "
            "that do not, with value 0",
        )
    needed = [k for k, name in enumerate(names) if own_head is not None or (absent[k] and name not in leave_out)]
    lacking = [names[k] for k in needed if not present[k]]
    if lacking:
        way_out = "" if own_head is not None else f"; or do not train them: --leave-out {' --leave-out '.join(lacking)}"
        shown = ", ".join(lacking)
        raise DataError(
            "no_positive", f"head {head!r}: no training scene with pictures shows {shown}; add logs or labels{way_out}"
        )
    left = {*leave_out, *always}
    found = {name: int(present[k]) for k, name in enumerate(names) if present[k] and name not in left}
    if not found:
        raise DataError(
            "no_positive", f"head {head!r}: no training scene with pictures has a label that it could learn"
        )
    return found


def _untrained(
    upgrade: UpgradeConfig, taxonomy: Taxonomy, positives: Mapping[str, int], progress: ConsoleProgress
) -> tuple[str, ...]:
    """Tags of the taxonomy that are left as they are; those that every known scene shows teach nothing but yes."""
    if upgrade.head != "tags":
        return upgrade.leave_out
    others = tuple(name for name in taxonomy.names if name not in positives and name not in upgrade.leave_out)
    if others:
        progress.note(f"not trained, because training scenes do not show both kinds: {', '.join(others)}")
    return (*upgrade.leave_out, *others)


def _refuse_none(known: int, head: str, what: str) -> dict[str, int]:
    if not known:
        raise DataError("nothing_to_learn", f"head {head!r}: no training scene has {what}")
    return {head: known}
