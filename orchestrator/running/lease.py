"""Who drives a run: a file in its folder, renewed while the driver lives, that keeps a second one from starting.

It spares work and confusion; it is not what keeps a run whole. Stages are content-addressed and files appear whole, so
two drivers that start in the same instant write equal results, and the one that finds itself replaced stops.
"""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel

from orchestrator.storage.store import Store

PLACE = "driver.json"
RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
REUSED_SECONDS = 3600.0  # after which the process id of a dead driver may be that of another process


class BusyError(RuntimeError):
    """Another process drives the run."""


class Holder(BaseModel):
    """The process that drives a run, as it said last.

    Attributes:
        id: of this lease.
        host, pid: of the process.
        started, renewed: when it began, and when it was last heard of.
        running: stages with workers, by kind.
    """

    id: str
    host: str
    pid: int
    started: AwareDatetime
    renewed: AwareDatetime
    running: dict[str, int]

    @property
    def alive(self) -> bool:
        """Whether the driver runs: by its process id on its own host, elsewhere by a heartbeat in the last minute."""
        age = (datetime.now(UTC) - self.renewed).total_seconds()
        if self.host == socket.gethostname():
            return age < REUSED_SECONDS and _is_process(self.pid)
        return age < STALE_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started:%Y-%m-%d %H:%M} UTC"


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def holder(store: Store) -> Holder | None:
    """The process that drives the run now; None where there is none, or it died."""
    try:
        found = Holder.model_validate_json(store.read(PLACE))
    except (FileNotFoundError, ValueError):
        return None
    return found if found.alive else None


class Lease:
    """The right of this process to drive a run."""

    def __init__(self, store: Store):
        self.store = store
        now = datetime.now(UTC)
        host, pid = socket.gethostname(), os.getpid()
        self.mine = Holder(id=uuid.uuid4().hex, host=host, pid=pid, started=now, renewed=now, running={})
        self.written = 0.0

    def check(self) -> None:
        """Fail where another process drives the run.

        Raises:
            BusyError: names the process and what to do.
        """
        other = holder(self.store)
        if other and other.id != self.mine.id:
            raise BusyError(
                f"another driver is at work on {self.store.uri} ({other}): wait for it, or stop it there with "
                f"`kill {other.pid}`; if its machine is gone, it stops counting after {STALE_SECONDS:g} s"
            )

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
        with contextlib.suppress(BusyError, OSError):
            self.check()
            if self.written:
                self.store.delete(PLACE)
