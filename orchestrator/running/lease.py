"""Who drives a run: a file in its folder, renewed while the driver lives, that keeps a second one from starting.

It spares work and confusion; it is not what keeps a run whole. Stages are content-addressed and files appear whole, so
two drivers that start in the same instant write equal results, and the one that finds itself replaced stops.

Whether a driver lives is asked of the operating system where that knows the process: on the same boot of the same
machine and in the same namespace of process ids. A process id alone would not do: containers reuse the small ones at
every start. From elsewhere only the heartbeat tells, by the clock of the storage, since those of hosts may differ.
"""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import AwareDatetime, BaseModel

from orchestrator.storage.store import Store

PLACE = "driver.json"
RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
POLL_SECONDS = 1.0
ENDED: set[str] = set()
"""Ids of the leases that this process has let go, be it that the run was out of reach then."""


class BusyError(RuntimeError):
    """Another process drives the run."""


class Holder(BaseModel):
    """The process that drives a run, as it said last.

    Attributes:
        id: of this lease.
        host, pid: of the process.
        processes: of which processes `pid` is one; see `known_processes`. None in runs of version 0.1.
        created: when the process was, in seconds since 1970.
        started, renewed: when it began to drive, and its last heartbeat, by its own clock.
        running: stages with workers, by kind.
    """

    id: str
    host: str
    pid: int
    processes: str | None = None
    created: float | None = None
    started: AwareDatetime
    renewed: AwareDatetime
    running: dict[str, int]

    @property
    def is_known_here(self) -> bool:
        """Whether this machine can tell if the process lives."""
        return self.processes is not None and self.processes == known_processes()

    @property
    def is_process(self) -> bool:
        """Whether a process that is known here lives: one of this id, created when the driver was."""
        if self.id in ENDED:
            return False
        try:
            return self.created is not None and abs(psutil.Process(self.pid).create_time() - self.created) < 1.0
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it may not be looked at, but it is there
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started:%Y-%m-%d %H:%M} UTC"


def known_processes() -> str:
    """The boot of this machine and the namespace of process ids, which together with an id name one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: no namespaces
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def read_holder(store: Store) -> Holder | None:
    """The process that said last that it drives the run, dead or alive; None where there is none."""
    try:
        return Holder.model_validate_json(store.read(PLACE))
    except (FileNotFoundError, ValueError):
        return None


def holder(store: Store) -> Holder | None:
    """The process that drives the run now; None where there is none, or it died."""
    found = read_holder(store)
    if found is None:
        return None
    # What is from far in the future was written before a clock was set back: a living driver would have renewed it.
    alive = found.is_process if found.is_known_here else abs(store.seconds_since_written(PLACE)) < STALE_SECONDS
    return found if alive else None


class Lease:
    """The right of this process to drive a run."""

    def __init__(self, store: Store):
        self.store = store
        now = datetime.now(UTC)
        self.mine = Holder(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            processes=known_processes(),
            created=psutil.Process().create_time(),
            started=now,
            renewed=now,
            running={},
        )
        self.written = 0.0

    def check(self, say: Callable[[str], None] | None = None) -> None:
        """Fail where another process drives the run.

        Args:
            say: where given, a driver elsewhere that was heard of lately is waited for until it is heard of again, or
                for so long that it must be dead; this gets a sentence about it.

        Raises:
            BusyError: names the process and what to do.
        """
        other = read_holder(self.store)
        if other is None or other.id == self.mine.id or holder(self.store) is None:
            return
        if other.is_known_here:
            raise BusyError(
                f"another driver is at work on {self.store.uri} ({other}): wait for it, or stop it with "
                f"`kill {other.pid}`"
            )
        if say is None or self.is_heard_again(other, say):
            raise BusyError(
                f"another driver is at work on {self.store.uri} ({other}): wait for it, or stop it there; once it is "
                f"gone, it stops counting after {STALE_SECONDS:g} s"
            )

    def is_heard_again(self, other: Holder, say: Callable[[str], None]) -> bool:
        """Whether a driver elsewhere gives another sign of life before it must be dead."""
        say(
            f"a driver elsewhere ({other}) was at work on {self.store.uri} a moment ago: waiting up to "
            f"{STALE_SECONDS:g} s for a sign of life"
        )
        while holder(self.store) is not None:
            time.sleep(POLL_SECONDS)
            now = read_holder(self.store)
            if now is not None and now.renewed != other.renewed:
                return True
        return False

    def renew(self, running: Mapping[str, int], *, now: bool = False) -> None:
        """Say that this process is alive and what runs, unless that was done lately.

        Args:
            running: stages with workers, by kind.
            now: also where it was done lately, and whatever stands in the way is an error.

        Raises:
            BusyError: another process has taken the run over.
            StorageError: `now`, and the run cannot be written to.
        """
        if not now and time.monotonic() - self.written < RENEW_SECONDS:
            return
        self.mine = self.mine.model_copy(update={"renewed": datetime.now(UTC), "running": dict(running)})
        with contextlib.nullcontext() if now else contextlib.suppress(OSError):  # a task will say what is wrong
            self.check()
            self.store.write(self.mine.model_dump_json(indent=1).encode(), PLACE)
        self.written = time.monotonic()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Drive the run for the length of a block."""
        try:
            self.renew({}, now=True)
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let others drive the run."""
        ENDED.add(self.mine.id)
        with contextlib.suppress(BusyError, OSError):
            self.check()
            if self.written:
                self.store.delete(PLACE)
