"""Label, train, upgrade, certify, judge and mine as users do: small, on the cluster, killed, and with bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from system.miner.identity import saved_model_id
from system.store.location import StoreLocation
from system.store.schema import SCENES
from tests.cluster.conftest import Head
from tests.cluster.jobs import ROOT, Done, call_job, run_job
from tests.plain_logs import write_plain_log

QUICK = ("--epochs", "4", "--patience", "4", "--batch-size", "4", "--learning-rate", "3e-3")
# Sums are taken in another order with another number of workers.
WORKERS_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Path:
    """Twelve logs, half of them with a pedestrian, and a base that was trained on them."""
    root = tmp_path_factory.mktemp("learning")
    for n in range(12):
        write_plain_log(root / "fleet", f"drive-{n:02d}", with_walker=n % 2 == 0, seconds=8, cameras=("FRONT",), seed=n)
    for n in range(2):
        write_plain_log(root / "unseen", f"new-{n}", with_walker=n % 2 == 0, seconds=8, cameras=("FRONT",), seed=50 + n)
    done = run_job("train_base", *source(root), "--out", root / "base", *QUICK, env=head.env)
    assert done.code == 0, done.stderr
    assert done.figures["scenes"]["train"] >= 8 and done.figures["trained_parameters"] > 100_000
    return root


def source(root: Path) -> tuple[str | Path, ...]:
    return ("--logs", root / "fleet", "--cache", root / "features")


def upgrade(root: Path, out: str, *arguments: str | Path, base: str = "base") -> tuple[str | Path, ...]:
    return (*source(root), "--base", root / base, "--out", root / out, *QUICK, *arguments)


def leave_out(done: Done) -> list[str]:
    """What the refusal of untaught tags proposes."""
    assert done.code == 3 and "no_positive" in done.stderr, done.stderr
    return done.stderr.split("do not train them: ")[1].split()


def history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def own_head(root: Path) -> tuple[str | Path, ...]:
    """A user's own head: a tag of hers, and which logs show it."""
    (root / "own.toml").write_text('name = "animals"\ntags = ["deer"]\n')
    rows = [f"drive-{n:02d},deer,{n % 2}" for n in range(12)]
    (root / "own.csv").write_text("\n".join(["scene_id,tag,value", *rows]) + "\n")
    return ("--own-head", root / "own.toml", "--own-labels", root / "own.csv")


def test_labels_say_which_rule_gave_them_and_what_nobody_knows(house: Path):
    done = run_job("label_scenes", "--logs", house / "fleet", "--out", house / "labels.parquet")
    assert done.code == 0, done.stderr
    assert done.figures["scenes"] == 24 and done.figures["with_risk"] == 24


# All trainings go on by the same function, and a killed distillation is tried every time.
@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_base_training_ends_where_the_unbroken_one_does(house: Path, head: Head, workers: str):
    out = house / f"again-{workers}"
    arguments = [*source(house), "--out", out, *QUICK, "--workers", workers]
    command = [sys.executable, str(ROOT / "jobs" / "train_base.py"), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, env=head.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s and not list(house.glob(f".again-{workers}.training/ray/checkpoint_*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not out.exists()
    done = call_job("train_base", *arguments, env=head.env)
    assert done.code == 0, done.stderr
    assert not list(house.glob(".again-*"))
    ours, whole = weights(out), weights(house / "base")
    if workers == "1":
        assert all(np.array_equal(ours[name], whole[name]) for name in whole)
    for row, expected in zip(history(out), history(house / "base"), strict=True):
        assert row == pytest.approx(expected, rel=WORKERS_TOLERANCE, abs=WORKERS_TOLERANCE)


def upgraded(house: Path, head: Head, chain: list[tuple[str, tuple[str | Path, ...]]], mark: str = "") -> list[str]:
    """Each head on the model before it, certified; the folders, the base first."""
    folders = ["base"]
    for name, arguments in chain:
        # One as its users run it.
        run = run_job if name == "tags" and not mark else call_job
        done = run("finetune_head", *upgrade(house, name + mark, *arguments, base=folders[-1]), env=head.env)
        assert done.code == 0, done.stderr
        figures = done.figures
        assert figures["siblings_identical"] is True and figures["head"] == name
        assert 92_000 <= figures["trained_parameters"] <= 105_000
        certificate = json.loads(Path(figures["certificate"]).read_text())
        told = {(s["dtype"], s["batch_size"], s["workers"]) for s in certificate["siblings"]}
        assert told == {(d, b, w) for d in ("float32", "bfloat16", "float16") for b in (1, 16) for w in (1, 2)}
        folders.append(name + mark)
    first, last = weights(house / folders[1]), weights(house / folders[-1])
    assert all(np.array_equal(last[name], first[name]) for name in first if name.startswith(("tags.", "stream.")))
    verified = ("--model", house / folders[-1], "--base", house / folders[-2])
    done = call_job("verify_certificate", *verified, env=head.env)
    assert done.code == 0, done.stderr
    return folders


@pytest.mark.slow
def test_a_chain_of_four_upgrades_is_certified_and_the_first_head_stays_as_it_was(house: Path, head: Head):
    left_out = leave_out(call_job("finetune_head", *upgrade(house, "tags-4", "--head", "tags"), env=head.env))
    given = [("tags", left_out), ("embedding", left_out), ("risk", [])]
    chain = [(name, ("--head", name, *more)) for name, more in given]
    upgraded(house, head, [*chain, ("animals", own_head(house))], mark="-4")


def test_upgrades_are_certified_mined_with_and_judged(house: Path, head: Head):
    left_out = leave_out(call_job("finetune_head", *upgrade(house, "tags", "--head", "tags"), env=head.env))
    upgraded(house, head, [("tags", ("--head", "tags", *left_out)), ("animals", own_head(house))])

    mined = call_job("mine_fleet", "--logs", house / "unseen", "--store", house / "store", env=head.env)
    assert mined.code == 0, mined.stderr
    more = call_job(
        "mine_fleet", "--logs", house / "unseen", "--store", house / "store", "--model", house / "animals", env=head.env
    )
    assert more.code == 0, more.stderr
    rows = StoreLocation.parse(str(house / "store")).dataset(SCENES).to_table().to_pylist()
    assert len(rows) == 8 and len({row["model_id"] for row in rows}) == 2

    judged = run_job(
        "evaluate_miner", "--model", house / "animals", "--logs", house / "unseen", "--logs", house / "fleet",
        "--cache", house / "features", "--rounds", "20", env=head.env,
    )  # fmt: skip
    assert judged.code == 0, judged.stderr
    rows = judged.figures["rows"]
    assert rows[str(house / "unseen")]["scenes"] == 4
    assert rows[str(house / "fleet")]["scenes"] < 24  # what it learnt from is left out
    assert {"tag_map", "tag_map_zero_shot", "tag_map_linear_probe", "ndcg_at_10"} <= judged.figures.keys()

    given = ("--model", house / "animals", "--logs", house / "fleet", "--cache", house / "features", "--rounds", "20")
    own = call_job("evaluate_miner", *given, "--own-labels", house / "own.csv", env=head.env)
    assert own.code == 0, own.stderr
    assert set(own.figures["rows"][str(house / "fleet")]["own_tags"]) == {"deer"}
    refused = call_job("evaluate_miner", *given, "--logs", "x", "--own-labels", house / "own.csv", env=head.env)
    assert refused.code == 2 and "--together" in refused.stderr


def test_a_moved_sibling_or_another_file_is_not_verified(house: Path, head: Head):
    moved = house / "moved"
    shutil.copytree(house / "tags", moved)
    tensors = weights(moved)
    tensors["forecast.readers.0.out.bias"] = tensors["forecast.readers.0.out.bias"] + np.float32(1e-4)
    save_file(tensors, moved / "model.safetensors")
    done = call_job("verify_certificate", "--model", moved, env=head.env)
    assert done.code == 5 and "not the file that was certified" in done.stderr

    # Whoever changes the hashes too is told by the model's id, and then by the answers.
    weights_sha256 = hashlib.sha256((moved / "model.safetensors").read_bytes()).hexdigest()
    _change(moved / "config.json", weights_sha256=weights_sha256)
    _change(moved / "certificate.json", checkpoint_sha256=weights_sha256)
    done = call_job("verify_certificate", "--model", moved, env=head.env)
    assert done.code == 5 and "not the model that was certified" in done.stderr
    described = json.loads((moved / "config.json").read_text())
    _change(moved / "certificate.json", model_id=saved_model_id(moved, described["tower_id"]))
    done = call_job("verify_certificate", "--model", moved, env=head.env)
    assert done.code == 7 and "the first of head 'forecast'" in done.stderr

    # And whoever leaves out the answers that moved is told so.
    siblings = json.loads((moved / "certificate.json").read_text())["siblings"]
    _change(moved / "certificate.json", siblings=[s for s in siblings if s["head"] != "forecast"])
    done = call_job("verify_certificate", "--model", moved, env=head.env)
    assert done.code == 7 and "says nothing of" in done.stderr


def _change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_study_shows_that_only_ours_moves_nobody_and_goes_on(house: Path, head: Head):
    arguments = [*source(house), "--base", house / "base", "--out", house / "study", "--head", "risk", "--epochs", "2"]
    assert call_job("study_interference", *arguments, "--seeds", "1", "--arms", "ours", env=head.env).code == 0
    first = (house / "study" / "ours-0.json").stat().st_mtime_ns
    done = run_job("study_interference", *arguments, "--seeds", "1", env=head.env)
    assert done.code == 0, done.stderr
    assert (house / "study" / "ours-0.json").stat().st_mtime_ns == first
    arms = done.figures["arms"]
    assert arms["ours"]["max_abs_change"] == 0 and arms["ours"]["sibling_metric_drop"]["mean"] == 0
    assert all(arms[arm]["max_abs_change"] > 0 for arm in ("adapter_random", "adapter_zero", "unfrozen"))
    assert all(arm["seeds"] == 1 for arm in arms.values()) and (house / "study" / "study.png").is_file()
    done = call_job("study_interference", *arguments, "--learning-rate", "0.5", env=head.env)
    assert done.code == 2 and "holds a study with other settings" in done.stderr


def test_what_cannot_be_trained_is_refused_before_it_starts(house: Path, head: Head):
    own = own_head(house)
    (house / "unknown_tag.csv").write_text("scene_id,tag,value\ndrive-00,elk,1\n")
    (house / "unknown_id.csv").write_text("scene_id,tag,value\nnobody,deer,1\n")
    (house / "no_positive.csv").write_text("scene_id,tag,value\ndrive-00,deer,0\ndrive-01,deer,0\n")
    everywhere = [f"drive-{n:02d},deer,1\n" for n in range(12)]
    (house / "no_negative.csv").write_text("scene_id,tag,value\n" + "".join(everywhere))
    (house / "taken.toml").write_text('name = "tags"\ntags = ["deer"]\n')
    (house / "known.toml").write_text('name = "mine"\ntags = ["night"]\n')
    (house / "other_tags.toml").write_text(
        '[[tags]]\nname = "night"\nseen_in = "most"\nprompts = ["at night"]\nopposites = ["by day"]\n'
    )
    for folder, damage in {"truncated": lambda b: b[:1000], "pickled": lambda b: b"\x80\x04\x95" + b}.items():
        shutil.copytree(house / "base", house / folder, dirs_exist_ok=True)
        file = house / folder / "model.safetensors"
        file.write_bytes(damage(file.read_bytes()))
    shutil.copytree(house / "base", house / "elsewhere", dirs_exist_ok=True)
    described = json.loads((house / "elsewhere" / "config.json").read_text())
    (house / "elsewhere" / "config.json").write_text(json.dumps(described | {"tower_id": "0" * 16}))
    cases = [
        (2, "no head 'tag' in model", ("--head", "tag"), "base"),
        (2, "needs --own-labels", own[:2], "base"),
        (2, "taken.toml", ("--own-head", house / "taken.toml", *own[2:]), "base"),
        (2, "has these tags already: night", ("--own-head", house / "known.toml", *own[2:]), "base"),
        (3, "elk", (*own[:3], house / "unknown_tag.csv"), "base"),
        (3, "unknown_id", (*own[:3], house / "unknown_id.csv"), "base"),
        (3, "shows deer", (*own[:3], house / "no_positive.csv"), "base"),
        (3, "with value 0", (*own[:3], house / "no_negative.csv"), "base"),
        (2, "test_share", (*own, "--test-share", "0.9"), "base"),
        (2, "--taxonomy", ("--head", "tags", "--taxonomy", house / "other_tags.toml"), "base"),
        (2, "the model has no tags snow", ("--head", "tags", "--leave-out", "snow"), "base"),
        (5, "truncated", ("--head", "risk"), "truncated"),
        (5, "pickled", ("--head", "risk"), "pickled"),
        (5, "elsewhere", ("--head", "risk"), "elsewhere"),
    ]
    for code, words, arguments, base in cases:
        given = [*source(house), "--base", house / base, "--out", house / "refused", *arguments]
        done = call_job("finetune_head", *given, env=head.env)
        assert (done.code, words in done.stderr) == (code, True), (words, done.code, done.stderr)
        assert not (house / "refused").exists()
