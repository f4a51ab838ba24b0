"""Which logs are new, which came late, and which have another content than the one that was mined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from system.logs import files
from system.pipelines.nightly.finding import Arrival
from system.store.log_versions import LogVersion


@dataclass(frozen=True)
class Change:
    """A log that came again with another content; `before` is what was mined, perhaps from another place."""

    arrival: Arrival
    before: LogVersion


@dataclass
class Judged:
    """current: the logs to plan with, each once. superseded: older contents of some of them, left alone.

    versions: what has to be remembered of `new` and `changed`.
    """

    current: list[Arrival] = field(default_factory=list)
    new: list[Arrival] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    superseded: list[Arrival] = field(default_factory=list)
    versions: list[LogVersion] = field(default_factory=list)


def judge_logs(
    arrivals: Sequence[Arrival],
    known: Iterable[LogVersion],
    model_id: str,
    night: date,
    last_night: date | None,
    now_ns: int,
    mine_again: bool,
) -> Judged:
    """Compare what lies there with what was mined.

    Two logs of one id and source are contents of the same drive where their times overlap, and parts of it where they
    do not. Of several contents the one that was seen last is mined; of those first seen tonight, the one that was
    listed last.

    Args:
        known: logs that this model mined, or was about to, of at least these ids.
        last_night: the night before; a log of an earlier day that is new is late.
        mine_again: whether a changed log is mined in place of its old scenes; if not, it is left out.
    """
    judged, known, seen_of = Judged(), list(known), defaultdict(list)
    for version in known:
        seen_of[version.source, version.log_id].append(version)
    dated: list[tuple[int, Arrival]] = []
    for arrival in _with_first_source(arrivals, known):
        others = seen_of[arrival.ref.source, arrival.ref.log_id]
        here = next((v for v in others if v.log_uri == arrival.ref.uri), None)
        before = _other_content(arrival, here, others)
        if before is not None:
            judged.changed.append(Change(arrival, before))
            if not mine_again:
                continue
        elif here is not None:
            if arrival.fingerprint.text != here.fingerprint:  # of another kind now
                judged.versions.append(replace(here, fingerprint=arrival.fingerprint.text))
            dated.append((here.seen_ns, arrival))
            continue
        else:
            judged.new.append(arrival)
        dated.append((now_ns, arrival))
        is_late = arrival.day is not None and last_night is not None and arrival.day < last_night
        kind = "reuploaded" if before is not None else "late" if is_late else "new"
        judged.versions.append(_version(arrival, model_id, night, kind, now_ns))
    _keep_newest(dated, judged)
    return judged


def _with_first_source(arrivals: Sequence[Arrival], known: Sequence[LogVersion]) -> list[Arrival]:
    """The arrivals; a copy of a log in another day's folder has the source of the first, and so its scenes.

    Recordings are called after the folder that they lie in, which may be that of the day. Another content is no copy:
    recorders whose clock begins anew give drives of different days one name and one time.
    """
    sources_of: dict[tuple[str, int, int, str], list[str]] = defaultdict(list)
    for version in sorted(known, key=lambda v: (v.seen_ns, v.day)):
        content = (version.log_id, version.t_start_ns, version.t_end_ns, version.fingerprint)
        sources_of[content].append(version.source)
    named = []
    for arrival in arrivals:
        ref = arrival.ref
        sources = sources_of[ref.log_id, ref.t_start_ns, ref.t_end_ns, arrival.fingerprint.text]
        is_called_after_folder = arrival.day is not None and ref.source == files.name(files.parent(ref.uri))
        if is_called_after_folder and sources and ref.source not in sources:
            arrival = replace(arrival, ref=replace(ref, source=sources[0]))
        sources.append(arrival.ref.source)
        named.append(arrival)
    return named


def _other_content(arrival: Arrival, here: LogVersion | None, others: Sequence[LogVersion]) -> LogVersion | None:
    """What was mined of this drive, if it was another content."""
    if here is not None:
        return here if arrival.fingerprint.differs_from(here.fingerprint) else None
    same = [v for v in others if v.overlaps(arrival.ref.t_start_ns, arrival.ref.t_end_ns)]
    if any(not arrival.fingerprint.differs_from(v.fingerprint) for v in same):
        return None  # a copy in another place
    return max(same, key=lambda v: v.seen_ns, default=None)


def _keep_newest(dated: Sequence[tuple[int, Arrival]], judged: Judged) -> None:
    """Sort contents of one drive out: the one seen last is current, ties go to the one listed last."""
    kept: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
    current: set[int] = set()
    order = sorted(range(len(dated)), key=lambda k: (dated[k][0], k), reverse=True)
    for k in order:
        ref = dated[k][1].ref
        newer = kept[ref.source, ref.log_id]
        if any(n.ref.t_start_ns <= ref.t_end_ns and n.ref.t_end_ns >= ref.t_start_ns for n in newer):
            continue
        newer.append(dated[k][1])
        current.add(k)
    for k, (_, arrival) in enumerate(dated):
        (judged.current if k in current else judged.superseded).append(arrival)


def _version(arrival: Arrival, model_id: str, night: date, kind: str, now_ns: int) -> LogVersion:
    ref = arrival.ref
    return LogVersion(
        model_id=model_id,
        source=ref.source,
        log_id=ref.log_id,
        log_uri=ref.uri,
        day="" if arrival.day is None else arrival.day.isoformat(),
        night=night.isoformat(),
        arrival=kind,
        t_start_ns=ref.t_start_ns,
        t_end_ns=ref.t_end_ns,
        size_bytes=arrival.fingerprint.size_bytes,
        fingerprint=arrival.fingerprint.text,
        seen_ns=now_ns,
    )
