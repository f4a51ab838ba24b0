"""Our time to collision against other people's: CommonRoad-CriMe's TTC* and SUMO's own safety device, on real logs.

CriMe steps by 0.1 s up to 6 s, takes agents within 40 m and leaves static clutter out; so do we here. A frame agrees
where both find no contact, or both find one within 0.1 s of each other. SUMO's values are compared where it speaks of
car following (encounter types 2 and 3). Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from system.logs.plain import PlainReader
from system.logs.reader import BadLog
from system.miner.alignment import pair_up
from system.miner.encounter import time_to_collision
from system.miner.kinematics import KinematicConfig
from system.miner.risk import RiskConfig
from system.miner.scene_risk import is_road_user, score_scene
from system.records import DrivingLog, SceneWindow, Track, WindowRef
from tests.benchmarks.real_corpus import data_root

HORIZON_S, WITHIN_M, TOLERANCE_S = 6.0, 40.0, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=None, help="so many logs of each data set only")
    arguments = parser.parse_args()
    print(json.dumps(judge(data_root(), arguments.logs)))


def judge(root: Path, max_logs: int | None = None) -> dict[str, object]:
    """All figures; `max_logs` of each data set."""
    datasets = {}
    agreed = frames = 0
    for path in sorted((root / "oracle").glob("crime_*_scene.csv")):
        name = path.name.removeprefix("crime_").removesuffix("_scene.csv")
        result = _judge_crime(root, name, path, max_logs)
        agreed, frames = agreed + result["agreed"], frames + result["frames"]
        datasets[name] = {**result, "ttcstar_agree_share": round(result["agreed"] / max(1, result["frames"]), 4)}
    sumo = _judge_sumo(root, max_logs)
    datasets["sumo_grid"] = {**datasets.get("sumo_grid", {}), **sumo}
    return {
        "ttcstar_agree_share": round(agreed / max(1, frames), 4),
        "frames": frames,
        "sumo_ttc_median_abs_s": sumo["sumo_ttc_median_abs_s"],
        "pairs_per_s": _pairs_per_s(root),
        "datasets": datasets,
    }


def _rows(path: Path, max_logs: int | None) -> dict[str, list[dict[str, str]]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    by_log: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in csv.DictReader(text.splitlines()):
        by_log[row["log_id"]].append(row)
    return dict(list(by_log.items())[:max_logs])


@lru_cache(maxsize=4)
def _log(folder: Path) -> DrivingLog:
    ref = next(PlainReader().list_logs(str(folder)))
    assert not isinstance(ref, BadLog)
    return PlainReader().read_log(ref)


def _at(track: Track, t_ns: int) -> Track | None:
    return track.between(t_ns - 1000, t_ns + 1000)


def _judge_crime(root: Path, name: str, path: Path, max_logs: int | None) -> dict[str, int]:
    agreed = frames = both = one_sided = 0
    for log_id, rows in _rows(path, max_logs).items():
        log = _log(root / "driving" / name / log_id)
        for row in rows:
            if row["crime_TTCStar"] == "" or int(row["frame"]) >= len(log.ego.t_ns):
                continue
            ours, theirs = _least_ttc(log, int(row["frame"])), float(row["crime_TTCStar"])
            is_agreed = (np.isinf(ours) and np.isinf(theirs)) or abs(ours - theirs) <= TOLERANCE_S + 1e-9
            frames += 1
            agreed += bool(is_agreed)
            both += bool(np.isfinite(ours) and np.isfinite(theirs))
            one_sided += bool(np.isfinite(ours) != np.isfinite(theirs))
    return {"agreed": agreed, "frames": frames, "both_find_contact": both, "only_one_finds_contact": one_sided}


def _least_ttc(log: DrivingLog, frame: int) -> float:
    t_ns = int(log.ego.t_ns[frame])
    x, y = log.ego.states[frame, :2]
    near = []
    for track in log.agents:
        now = _at(track, t_ns) if is_road_user(track.category) else None
        if now is not None and np.hypot(now.states[0, 0] - x, now.states[0, 1] - y) <= WITHIN_M:
            near.append(now)
    if not near:
        return np.inf
    pairs = pair_up(log.ego, tuple(near))
    return float(
        time_to_collision(pairs.ego, pairs.other, pairs.ego_velocity, pairs.other_velocity, HORIZON_S).min(
            initial=np.inf
        )
    )


def _judge_sumo(root: Path, max_logs: int | None) -> dict[str, float | int]:
    errors, missed = [], 0
    for log_id, rows in _rows(root / "oracle" / "sumo_ssm_series.csv.gz", max_logs).items():
        log = _log(root / "driving" / "sumo_grid" / log_id)
        tracks = {track.track_id: track for track in log.agents}
        for row in rows:
            if row["encounter_type"] not in ("2", "3") or not row["TTC"] or int(row["frame"]) >= len(log.ego.t_ns):
                continue
            theirs = float(row["TTC"])
            foe = tracks.get(row["foe"])
            now = None if foe is None else _at(foe, int(log.ego.t_ns[int(row["frame"])]))
            if now is None or theirs > HORIZON_S:
                continue
            pairs = pair_up(log.ego, (now,))
            ours = time_to_collision(pairs.ego, pairs.other, pairs.ego_velocity, pairs.other_velocity, 2 * HORIZON_S)[0]
            if np.isfinite(ours):
                errors.append(abs(ours - theirs))
            else:
                missed += 1
    return {
        "sumo_ttc_median_abs_s": round(float(np.median(errors)), 4) if errors else float("nan"),
        "sumo_ttc_p90_abs_s": round(float(np.quantile(errors, 0.9)), 4) if errors else float("nan"),
        "sumo_values": len(errors) + missed,
        "sumo_contact_not_found": missed,
    }


def _pairs_per_s(root: Path) -> float:
    """Agent-moment pairs a second of the whole score, over the scenes of two busy data sets."""
    pairs, started_s = 0, time.perf_counter()
    for window in _whole_logs(root):
        pairs += sum(len(track.t_ns) for track in window.agents)
        score_scene(window, RiskConfig(), KinematicConfig())
    return round(pairs / (time.perf_counter() - started_s), 0)


def _whole_logs(root: Path) -> Iterator[SceneWindow]:
    windows = []
    for name in ("argoverse2", "waymo_motion"):
        for folder in sorted((root / "driving" / name).iterdir()):
            log = _log(folder)
            ref = WindowRef("0" * 32, replace(log.ref), log.ref.t_start_ns, log.ref.t_end_ns + 1)
            windows.append(SceneWindow(ref, (), log.ego, log.agents))
    yield from windows


if __name__ == "__main__":
    main()
