"""One writer at a time: a lease with a heartbeat, in numbered files beside the tables.

Generation N of the lease is the file `_lease/N.json`, and creating it is exclusive (a hard link on disk, a
conditional put on an object store), so that of two jobs that see N-1 run out only one gets N. The holder rewrites its
file as a heartbeat; before each commit it looks whether a higher generation exists, and stops if so. Clocks of two
machines may differ, so that of a holder elsewhere an old heartbeat proves nothing: it is dead once this machine has
watched it for its time to live and it did not beat.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from system.errors import LeaseError, StoreError, reason_of, storage_errors
from system.store.location import StoreLocation

FOLDER = "_lease"
TIME_TO_LIVE_S = 60.0
HEARTBEAT_S = 10.0
_POLL_S = 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a generation. `boot_id` tells this start of a machine from the last, whose process ids mean nothing."""

    host: str
    pid: int
    boot_id: str
    run_id: str
    beat_ns: int
    released: bool = False

    @classmethod
    def this_process(cls, run_id: str) -> Holder:
        return cls(socket.gethostname(), os.getpid(), _boot_id(), run_id, time.time_ns())

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def age_s(self) -> float:
        """Since its heartbeat, by this machine's clock; below zero where the holder's is ahead."""
        return (time.time_ns() - self.beat_ns) / 1e9

    def is_alive(self, time_to_live_s: float) -> bool:
        """False once released, once its heartbeat is too old, or once its process on this machine is gone."""
        if self.released or self.age_s >= time_to_live_s:
            return False
        return not self.is_here or (self.boot_id == _boot_id() and _is_running(self.pid))

    def __str__(self) -> str:
        return f"run {self.run_id} (process {self.pid} on {self.host}, last heartbeat {self.age_s:.0f} s ago)"


class Lease:
    """Context manager: the sole right to write to a store.

    Where the holder is on another machine and seems to be dead, entry takes `time_to_live_s`: so long it is watched.

    Raises:
        LeaseError: on entry where another writer holds the store; from `check` where it was taken over.
        StoreError: the store cannot be written.
    """

    def __init__(
        self,
        location: StoreLocation,
        run_id: str,
        time_to_live_s: float = TIME_TO_LIVE_S,
        heartbeat_s: float = HEARTBEAT_S,
        on_beat: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """on_beat: told True after each heartbeat that was written, in the heartbeat's thread, and False at the end."""
        self._location = location
        self._run_id = run_id
        self._time_to_live_s = time_to_live_s
        self._heartbeat_s, self._on_beat = heartbeat_s, on_beat
        self._generation = 0
        self.renewed_s = 0.0  # Unix time of the last heartbeat that was written
        self._stop = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Lease:
        newest = _newest_generation(self._location)
        if newest:
            holder = _read(self._location, newest)
            # A heartbeat elsewhere that is far ahead of this clock says as little as an old one.
            is_told = holder is not None and (holder.is_here or holder.age_s > -self._time_to_live_s)
            if holder is not None and is_told and holder.is_alive(self._time_to_live_s):
                raise LeaseError(
                    f"{self._location.uri} is being written by {holder}. Wait for it to end, or stop it; a writer "
                    f"that died on another machine is replaced {self._time_to_live_s:.0f} s after its last heartbeat."
                )
            if holder is not None and not holder.released and not holder.is_here:
                newest = _watch(self._location, newest, holder, self._time_to_live_s, _POLL_S)
        if not _create(self._location, newest + 1, Holder.this_process(self._run_id)):
            raise LeaseError(f"{self._location.uri}: another job took the lease at this moment; try again when it ends")
        self._generation, self.renewed_s = newest + 1, time.time()
        _forget_old(self._location, self._generation)
        self._thread.start()
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._on_beat(False)
        if self._lost is not None:
            return
        try:
            self._write(released=True)
        except StoreError:
            # On a full disk the error that ended the run says more, and a process that is gone holds nothing.
            if error_type is None:
                raise

    def check(self) -> None:
        """Call before every commit.

        Raises:
            LeaseError: another writer took over, for instance after this one slept through its heartbeats.
        """
        newest = _newest_generation(self._location)
        if newest != self._generation:
            self._lost = self._lost or f"generation {newest} exists, this job held {self._generation}"
        if self._lost is not None:
            raise LeaseError(f"{self._location.uri}: the lease was lost ({self._lost}); nothing more is committed")

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                if _newest_generation(self._location) != self._generation:
                    self._lost = "another writer took over"
                    return
                self._write(released=False)
                self.renewed_s = time.time()
                self._on_beat(True)
            except (StoreError, OSError):
                # A full disk or a short outage: the next beat may succeed, and `check` decides before any commit.
                continue

    def _write(self, released: bool) -> None:
        holder = asdict(Holder.this_process(self._run_id)) | {"released": released}
        self._location.write_text(_file(self._generation), json.dumps(holder))


def wait_for_dead_holder(
    location: StoreLocation, time_to_live_s: float = TIME_TO_LIVE_S, poll_s: float = _POLL_S
) -> None:
    """Return once nobody holds the store: at once, or when a holder elsewhere has not beaten for its time to live.

    Its lease is taken and given back then, so that nobody watches it again.

    Raises:
        LeaseError: the holder lives: it beat while this waited.
    """
    newest = _newest_generation(location)
    holder = _read(location, newest) if newest else None
    if holder is None or holder.released:
        return
    if not holder.is_here:
        newest = _watch(location, newest, holder, time_to_live_s, poll_s)
        _create(location, newest + 1, replace(Holder.this_process(holder.run_id), released=True))
    elif holder.is_alive(time_to_live_s):
        raise _is_written_by(location, holder)


def _watch(location: StoreLocation, generation: int, holder: Holder, time_to_live_s: float, poll_s: float) -> int:
    """Return once a holder has given its lease back, or has not beaten for so long by this machine's steady clock.

    Returns:
        The newest generation: another may have taken the lease meanwhile, and given it back.
    Raises:
        LeaseError: it beat, or another took the lease and has it.
    """
    newest, until_s = generation, time.monotonic() + time_to_live_s
    while time.monotonic() < until_s:
        time.sleep(min(poll_s, time_to_live_s))
        newest = _newest_generation(location)
        seen = _read(location, newest) if newest else None
        if seen is None or seen.released:
            return newest
        if newest != generation or seen.beat_ns != holder.beat_ns:
            raise _is_written_by(location, seen)
    return newest


def _is_written_by(location: StoreLocation, holder: Holder) -> LeaseError:
    return LeaseError(
        f"{location.uri} is being written by {holder}, which is alive. Wait for it to end, or stop it; what it "
        "has committed is not mined again"
    )


def current_holder(location: StoreLocation) -> Holder | None:
    """Who writes to the store now, as far as its last heartbeat and this machine's clock tell, or None."""
    newest = _newest_generation(location)
    holder = _read(location, newest) if newest else None
    return holder if holder is not None and holder.is_alive(TIME_TO_LIVE_S) else None


def _file(generation: int) -> str:
    return f"{FOLDER}/{generation:08d}.json"


def _newest_generation(location: StoreLocation) -> int:
    fs, path = location.filesystem()
    try:
        names = [Path(entry).stem for entry in fs.ls(f"{path}/{FOLDER}", detail=False) if entry.endswith(".json")]
    except FileNotFoundError:
        return 0
    except storage_errors() as error:
        raise StoreError(f"{location.uri}: cannot list its lease: {reason_of(error)}") from error
    return max((int(name) for name in names if name.isdigit()), default=0)


def _read(location: StoreLocation, generation: int) -> Holder | None:
    text = location.read_text(_file(generation))
    try:
        return None if text is None else Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None  # cut off while its writer died: nobody holds it


def _create(location: StoreLocation, generation: int, holder: Holder) -> bool:
    """Create the file of a generation, or return False where somebody was faster."""
    fs, path = location.filesystem()
    target, text = f"{path}/{_file(generation)}", json.dumps(asdict(holder))
    try:
        if location.is_local:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            # Linked into place whole: nobody ever reads a lease that is still empty.
            draft = f"{target}.{os.getpid()}"
            with open(draft, "w", encoding="utf-8") as file:
                file.write(text)
            try:
                os.link(draft, target)
            finally:
                os.unlink(draft)
        else:
            fs.pipe_file(target, text.encode(), mode="create")
    except storage_errors() as error:
        # Where the answer to a put is lost, the put that is tried again meets its own file.
        if _read(location, generation) == holder:
            return True
        if isinstance(error, FileExistsError):
            return False
        raise StoreError(f"{location.uri}: cannot write there: {reason_of(error)}") from error
    return True


def _forget_old(location: StoreLocation, generation: int) -> None:
    """Remove all but the last few generations; what cannot be removed now is left to the next holder."""
    fs, path = location.filesystem()
    with suppress(*storage_errors()):
        for entry in fs.ls(f"{path}/{FOLDER}", detail=False):
            stem = Path(entry).stem
            if stem.isdigit() and int(stem) < generation - 8:
                fs.rm_file(entry)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie has ended; only its parent has not yet asked for the exit code.
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return True
