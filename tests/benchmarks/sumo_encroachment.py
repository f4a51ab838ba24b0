"""Post-encroachment times of SUMO's own safety device at a crossing, simulated here: none of the staged logs has one.

Traffic goes straight on only. For who turns, SUMO measures at the edges of the whole lane and we at the swept boxes:
those differ by up to half a second and say nothing about either.
"""

from __future__ import annotations

import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import numpy as np

from system.miner.surrogates import post_encroachment_time

_STRAIGHT = (("left0A0", "A0right0"), ("bottom0A0", "A0top0"), ("right0A0", "A0left0"), ("top0A0", "A0bottom0"))
_LENGTH_M, _WIDTH_M = 5.0, 1.8
_BEFORE_S, _AFTER_S = 10.0, 6.0


def encroachment_times(num_vehicles: int = 80, seed: int = 1) -> list[tuple[float, float]]:
    """(SUMO's PET, ours) in seconds of each crossing of two paths.

    Raises:
        ModuleNotFoundError: eclipse-sumo is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        tracks, rows = _simulate(Path(folder), num_vehicles, seed)
    times, seen = [], set()
    for ego, foe, at_s, value in rows:
        if (foe, ego) in seen:
            continue
        seen.add((ego, foe))
        (t_a, boxes_a), (t_b, boxes_b) = (_around(tracks[name], at_s) for name in (ego, foe))
        times.append((value, post_encroachment_time(t_a, boxes_a, t_b, boxes_b)))
    return times


def _around(track: np.ndarray, at_s: float) -> tuple[np.ndarray, np.ndarray]:
    part = track[(track[:, 0] >= at_s - _BEFORE_S) & (track[:, 0] <= at_s + _AFTER_S)]
    return part[:, 0], part[:, 1:]


def _simulate(
    folder: Path, num_vehicles: int, seed: int
) -> tuple[dict[str, np.ndarray], list[tuple[str, str, float, float]]]:
    """(tracks: vehicle to [T, 6] of time and box, rows: (ego, foe, time, PET))."""
    import sumo

    tools = Path(sumo.SUMO_HOME) / "bin"
    net, routes, places, measures = (folder / name for name in ("net.xml", "routes.xml", "fcd.xml", "ssm.xml"))
    layout = ["--grid", "--grid.number", "1", "--grid.length", "150", "--grid.attach-length", "150"]
    one_lane = ["--default.lanenumber", "1", "--default-junction-type", "priority"]
    subprocess.run([tools / "netgenerate", *layout, *one_lane, "-o", net], check=True, capture_output=True)
    rng, trips, t_s = np.random.default_rng(seed), [], 0.0
    for k in range(num_vehicles):
        t_s += rng.uniform(1.0, 3.0)
        start, end = _STRAIGHT[rng.integers(len(_STRAIGHT))]
        trips.append(f'<trip id="v{k}" depart="{t_s:.1f}" from="{start}" to="{end}" departSpeed="max"/>')
    kind = f'<vType id="DEFAULT_VEHTYPE" length="{_LENGTH_M}" width="{_WIDTH_M}"/>'
    routes.write_text(f"<routes>{kind}{''.join(trips)}</routes>", encoding="utf-8")
    device = ["probability", "1", "measures", "PET", "thresholds", "6.0", "range", "60", "file", str(measures)]
    options = [f"--device.ssm.{v}" if k % 2 == 0 else v for k, v in enumerate(device)]
    run = ["-n", net, "-r", routes, "--fcd-output", places, "--step-length", "0.1", "--end", "600", "--seed", str(seed)]
    subprocess.run([tools / "sumo", *run, *options, "--no-step-log"], check=True, capture_output=True)
    tracks: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for moment in ET.parse(places).getroot():
        for vehicle in moment:
            yaw = np.radians(90.0 - float(vehicle.get("angle", "nan")))
            # SUMO gives the middle of the front bumper.
            x = float(vehicle.get("x", "nan")) - 0.5 * _LENGTH_M * np.cos(yaw)
            y = float(vehicle.get("y", "nan")) - 0.5 * _LENGTH_M * np.sin(yaw)
            tracks[vehicle.get("id", "")].append((float(moment.get("time", "nan")), x, y, yaw, _LENGTH_M, _WIDTH_M))
    rows = []
    for conflict in ET.parse(measures).getroot():
        found = conflict.find("PET")
        if found is not None and found.get("value") != "NA":
            ego, foe = conflict.get("ego", ""), conflict.get("foe", "")
            rows.append((ego, foe, float(found.get("time", "nan")), float(found.get("value", "nan"))))
    return {name: np.array(track) for name, track in tracks.items()}, rows
