"""Our risk measures against other people's: CommonRoad-CriMe, SUMO's safety device and a plain box TTC, on real logs.

CriMe steps by 0.1 s up to 6 s, takes agents within 40 m and leaves static clutter out; so do we here. A frame agrees
where both find no contact, or both find one within 0.1 s of each other. CriMe's DCE and TTCE are of the recorded next
5 s. SUMO's TTC and DRAC are compared where it speaks of car following (encounter types 2 and 3) along a straight road:
around a bend it measures along the lane. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.miner.alignment import pair_up
from system.miner.boxes import box_distance
from system.miner.encounter import time_to_collision
from system.miner.kinematics import KinematicConfig
from system.miner.risk import RiskConfig
from system.miner.scene_risk import is_road_user, score_scene
from system.miner.sightings import sightings_from_ego
from system.miner.surrogates import deceleration_rate_to_avoid_crash
from system.records import DrivingLog, SceneWindow, Track, WindowRef
from tests.benchmarks.oracle_tables import log_of, rows_by_log
from tests.benchmarks.real_corpus import data_root
from tests.benchmarks.sumo_encroachment import encroachment_times

WITHIN_M, TOLERANCE_S, TOLERANCE_M = 40.0, 0.1, 0.1
CRIME_HORIZON_S, REFERENCE_HORIZON_S, SUMO_HORIZON_S = 6.0, 8.0, 6.0
STEP_S, RECORDED_STEPS = 0.1, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=None, help="so many logs of each data set only")
    parser.add_argument("--worst", type=int, default=0, help="print so many frames that disagree about TTC")
    arguments = parser.parse_args()
    print(json.dumps(judge(data_root(), arguments.logs, arguments.worst)))


def judge(root: Path, max_logs: int | None = None, num_worst: int = 0) -> dict[str, Any]:
    """All figures; `max_logs` of each data set."""
    datasets: dict[str, dict[str, Any]] = defaultdict(dict)
    totals: dict[str, list[int]] = {"ttcstar": [0, 0], "ref_ttc2d": [0, 0]}
    for path in sorted((root / "oracle").glob("crime_*_scene.csv")):
        name = path.name.removeprefix("crime_").removesuffix("_scene.csv")
        figures = _judge_ttc(root, path, "crime_TTCStar", CRIME_HORIZON_S, max_logs, num_worst)[name]
        pairs = _judge_closest(root, path.with_name(f"crime_{name}_pairs.csv.gz"), max_logs)
        datasets[name] |= _ttc_figures("ttcstar", figures, totals) | pairs
    for name, figures in _judge_ttc(
        root, root / "oracle" / "ref_ttc2d_all_frames.csv.gz", "ref_ttc2d_cv", REFERENCE_HORIZON_S, max_logs, num_worst
    ).items():
        datasets[name] |= _ttc_figures("ref_ttc2d", figures, totals)
    datasets["sumo_grid"] |= _judge_sumo(root, max_logs)
    return {
        "ttcstar_agree_share": _share(*totals["ttcstar"]),
        "frames": totals["ttcstar"][1],
        "sumo_ttc_median_abs_s": datasets["sumo_grid"]["sumo_ttc_median_abs_s"],
        "sumo_drac_median_abs_mps2": datasets["sumo_grid"]["sumo_drac_median_abs_mps2"],
        **_judge_encroachment(),
        "ref_ttc2d_agree_share": _share(*totals["ref_ttc2d"]),
        "ref_ttc2d_frames": totals["ref_ttc2d"][1],
        **_speed(root),
        "datasets": datasets,
    }


def _share(part: int, whole: int) -> float:
    return round(part / max(1, whole), 4)


def _ttc_figures(name: str, counts: dict[str, int], totals: dict[str, list[int]]) -> dict[str, Any]:
    totals[name][0] += counts["agreed"]
    totals[name][1] += counts["frames"]
    return {f"{name}_agree_share": _share(counts["agreed"], counts["frames"])} | {
        f"{name}_{key}": value for key, value in counts.items()
    }


def _judge_ttc(
    root: Path, path: Path, column: str, horizon_s: float, max_logs: int | None, num_worst: int
) -> dict[str, dict[str, int]]:
    """{data set: counts} of the frames of a table whose `column` is the least TTC of any agent nearby."""
    counts: dict[str, dict[str, int]] = defaultdict(
        lambda: {"agreed": 0, "frames": 0, "both_find_contact": 0, "only_one_finds_contact": 0}
    )
    worst = []
    for (dataset, log_id), rows in rows_by_log(path, max_logs).items():
        log = log_of(root, dataset, log_id)
        if log is None:
            continue
        least_s, count = _least_ttc(log, horizon_s), counts[dataset]
        for row in rows:
            if row[column] == "":  # nobody was near
                continue
            ours, theirs = float(least_s[int(row["frame"])]), float(row[column])
            agrees = (np.isinf(ours) and np.isinf(theirs)) or abs(ours - theirs) <= TOLERANCE_S + 1e-9
            count["frames"] += 1
            count["agreed"] += bool(agrees)
            count["both_find_contact"] += bool(np.isfinite(ours) and np.isfinite(theirs))
            count["only_one_finds_contact"] += bool(np.isfinite(ours) != np.isfinite(theirs))
            if not agrees:
                worst.append(
                    f"{column} {dataset} {log_id} frame {row['frame']}: ours {ours:.2f} s, theirs {theirs:.2f}"
                )
    for line in worst[:num_worst]:
        print(line)
    return counts


def _least_ttc(log: DrivingLog, horizon_s: float) -> NDArray[np.float64]:
    """Least TTC of any road user within WITHIN_M at each of the ego's moments (s, inf for none)."""
    assert log.ego is not None and log.agents is not None
    pairs = pair_up(log.ego, tuple(agent for agent in log.agents if is_road_user(agent.category)))
    frame = _nearest(log.ego.t_ns, pairs.t_ns)
    far = np.hypot(*(pairs.other[:, :2] - log.ego.states[frame, :2]).T) > WITHIN_M
    ttc = time_to_collision(pairs.ego, pairs.other, pairs.ego_velocity, pairs.other_velocity, horizon_s)
    least_s = np.full(len(log.ego.t_ns), np.inf)
    np.minimum.at(least_s, frame, np.where(far, np.inf, ttc))
    return least_s


def _nearest(t_ns: NDArray[np.int64], wanted_ns: NDArray[np.int64]) -> NDArray[np.intp]:
    after = np.clip(np.searchsorted(t_ns, wanted_ns), 0, len(t_ns) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(wanted_ns - t_ns[before] < t_ns[after] - wanted_ns, before, after)


def _judge_closest(root: Path, path: Path, max_logs: int | None) -> dict[str, Any]:
    """How our distance of boxes agrees with CriMe's DCE and TTCE of each pair's recorded next 5 s."""
    apart_m, apart_s = [], []
    for (dataset, log_id), rows in rows_by_log(path, max_logs).items():
        log = log_of(root, dataset, log_id)
        assert log is not None and log.ego is not None and log.agents is not None, f"{dataset} {log_id} is missing"
        tracks = {track.track_id: track for track in log.agents}
        for row in rows:
            if not row["crime_DCE"]:
                continue
            track, start_ns = tracks[row["track_id"]], int(log.ego.t_ns[int(row["frame"])])
            end_ns = min(int(log.ego.t_ns[-1]), int(track.t_ns[-1])) + int(0.5e9 * STEP_S)
            moments_ns = start_ns + np.arange(RECORDED_STEPS) * int(1e9 * STEP_S)
            pairs = pair_up(log.ego, (_resampled(track, moments_ns[moments_ns <= end_ns]),))
            distance_m = box_distance(pairs.ego, pairs.other)
            nearest = int(np.argmin(distance_m))
            apart_m.append(abs(distance_m[nearest] - float(row["crime_DCE"])))
            apart_s.append(abs(nearest * STEP_S - float(row["crime_TTCE"])))
    return {
        "dce_agree_share": round(float(np.mean(np.array(apart_m) <= TOLERANCE_M + 1e-9)), 4),
        "dce_median_abs_m": round(float(np.median(apart_m)), 4),
        "ttce_agree_share": round(float(np.mean(np.array(apart_s) <= TOLERANCE_S + 1e-9)), 4),
        "dce_pairs": len(apart_m),
    }


def _resampled(track: Track, t_ns: NDArray[np.int64]) -> Track:
    states = track.states.copy()
    states[:, 3] = np.unwrap(states[:, 3])
    columns = [np.interp(t_ns - t_ns[0], track.t_ns - t_ns[0], column) for column in states.T]
    return Track(track.track_id, track.category, t_ns, np.column_stack(columns))


def _judge_sumo(root: Path, max_logs: int | None) -> dict[str, float | int]:
    ttc_errors, drac_errors, missed = [], [], 0
    for (_, log_id), rows in rows_by_log(root / "oracle" / "sumo_ssm_series.csv.gz", max_logs).items():
        log = log_of(root, "sumo_grid", log_id)
        assert log is not None and log.ego is not None and log.agents is not None, f"sumo_grid {log_id} is missing"
        tracks = {track.track_id: track for track in log.agents}
        for row in rows:
            if row["encounter_type"] not in ("2", "3") or not row["TTC"] or row["foe"] not in tracks:
                continue
            t_ns, theirs = int(log.ego.t_ns[int(row["frame"])]), float(row["TTC"])
            now = tracks[row["foe"]].between(t_ns - 1000, t_ns + 1000)
            if now is None or theirs > SUMO_HORIZON_S:
                continue
            pairs = pair_up(log.ego, (now,))
            ours = time_to_collision(
                pairs.ego, pairs.other, pairs.ego_velocity, pairs.other_velocity, 2 * SUMO_HORIZON_S
            )[0]
            if np.isinf(ours):
                missed += 1
                continue
            ttc_errors.append(abs(ours - theirs))
            if row["encounter_type"] == "2" and row["DRAC"]:
                seen = sightings_from_ego(log.ego, (now,))
                speed = np.hypot(*pairs.ego_velocity.T)
                drac = deceleration_rate_to_avoid_crash(seen.gap_m, speed, seen.speed_mps)[0]
                drac_errors.append(abs(drac - float(row["DRAC"])))
    return {
        "sumo_ttc_median_abs_s": _quantile(ttc_errors, 0.5),
        "sumo_ttc_p90_abs_s": _quantile(ttc_errors, 0.9),
        "sumo_ttc_values": len(ttc_errors) + missed,
        "sumo_ttc_not_on_a_straight_path": missed,
        "sumo_drac_median_abs_mps2": _quantile(drac_errors, 0.5),
        "sumo_drac_p90_abs_mps2": _quantile(drac_errors, 0.9),
        "sumo_drac_values": len(drac_errors),
    }


def _judge_encroachment() -> dict[str, float | int | None]:
    if find_spec("sumo") is None:
        return {"sumo_pet_median_abs_s": None, "sumo_pet_values": 0}
    errors = [abs(ours - theirs) for theirs, ours in encroachment_times()]
    return {"sumo_pet_median_abs_s": _quantile(errors, 0.5), "sumo_pet_values": len(errors)}


def _quantile(values: list[float], share: float) -> float:
    return round(float(np.quantile(values, share)), 4) if values else float("nan")


def _speed(root: Path) -> dict[str, float]:
    """Pairs of an agent and a moment a second, one thread: TTC alone, and the whole score, on two busy data sets."""
    windows, pairs = [], []
    for dataset in ("argoverse2", "waymo_motion"):
        for folder in sorted((root / "driving" / dataset).iterdir()):
            log = log_of(root, dataset, folder.name)
            assert log is not None and log.ego is not None and log.agents is not None, f"{folder} is missing"
            ref = WindowRef("0" * 32, log.ref, log.ref.t_start_ns, log.ref.t_end_ns + 1)
            windows.append(SceneWindow(ref, (), log.ego, log.agents))
            pairs.append(pair_up(log.ego, log.agents))
    count = sum(len(part) for part in pairs)
    started_s = time.perf_counter()
    for part in pairs:
        time_to_collision(part.ego, part.other, part.ego_velocity, part.other_velocity)
    ttc_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    for window in windows:
        score_scene(window, RiskConfig(), KinematicConfig())
    score_s = time.perf_counter() - started_s
    return {"ttc_pairs_per_s": round(count / ttc_s), "pairs_per_s": round(count / score_s)}


if __name__ == "__main__":
    main()
