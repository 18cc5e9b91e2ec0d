"""The processes of a run's trackers as the driver sees them: begun, told how to end, ended where they take long."""

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from metaprune._packages import ROOT, users_folders
from orchestrator.storage.store import Store
from orchestrator.tracking.interface import End
from workloads.config import ChoiceConfig
from workloads.messages import counted

END_SECONDS, STOP_SECONDS = 120.0, 5.0  # that trackers get at the end of a run, and of one that was stopped
AGAIN = "the same command sends it once the tracker answers"
START = """
import json, os, sys
given = json.loads(open(0, "rb", 0, closefd=False).readline())
sys.path[:] = [given["root"], *given["folders"]]
import metaprune
sys.path.remove(given["root"])
lines = os.dup(1)
os.dup2(2, 1)
from orchestrator.tracking.sending import main
main(given, lines)
"""


class Trackers:
    """The trackers of one run; without any, nothing happens.

    As a context it ends them where that was not done before.
    """

    def __init__(self, choices: Sequence[ChoiceConfig]):
        self.choices = choices
        self.processes: list[Process] = []

    def start(self, store: Store, say: Callable[[str], None]) -> None:
        """Let them follow a run whose plan is written.

        Args:
            say: takes a sentence for the user.
        """
        self.processes = [Process(choice, store, say) for choice in self.choices]

    def end(self, end: End, report: Path | None = None, seconds: float = END_SECONDS) -> None:
        """Let them send the rest and the report; what takes longer is ended, and told."""
        processes, self.processes = self.processes, []
        for process in processes:
            process.tell(end, report)
        deadline = time.monotonic() + seconds
        try:
            for process in processes:
                process.wait(deadline, seconds)
        finally:
            for process in processes:
                process.kill()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end("finished")
        else:
            self.end("stopped", seconds=STOP_SECONDS)


class Process:
    """One tracker at work."""

    def __init__(self, choice: ChoiceConfig, store: Store, say: Callable[[str], None]):
        self.name, self.say = choice.label, say
        self.left: dict[str, Any] | None = None
        self.killed = False
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        own = users_folders()
        given = {
            "root": ROOT,
            "folders": [*(entry for entry in sys.path if entry not in own), *own],
            "uri": store.uri,
            "tracker": choice.name,
            "options": choice.options,
            "name": noted_as(choice),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the driver, which says how to end
        )
        self.write(given)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def write(self, what: dict[str, Any]) -> None:
        """Send a line to the process, if it is there."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()

    def read(self) -> None:
        """Take what it says, until it ends; one that ends unasked is a warning."""
        assert self.process.stdout
        for line in self.process.stdout:
            what = json.loads(line)
            if "warning" in what:
                self.say(
                    f"tracker {self.name}: {what['warning']}; the run goes on, what is missing there is sent when it "
                    f"answers"
                )
            else:
                self.left = what
        if self.process.wait() and self.left is None and not self.killed:
            self.say(f"tracker {self.name} has ended ({self.last_error()}); the run goes on without it")
            self.left = {}

    def last_error(self) -> str:
        """The last line that it wrote to stderr."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}"

    def tell(self, end: End, report: Path | None) -> None:
        """Say how the run has ended."""
        self.write({"end": end, "report": report and str(report.absolute())})

    def wait(self, deadline: float, seconds: float) -> None:
        """Wait until it has ended, or the deadline; say what was not sent."""
        self.reader.join(max(0.0, deadline - time.monotonic()))
        if self.reader.is_alive():
            self.say(f"tracker {self.name}: not everything could be sent within {seconds:g} s; {AGAIN}")
        elif self.left and (missing := list(described(self.left))):
            self.say(f"tracker {self.name}: {', '.join(missing)} could not be sent; {AGAIN}")

    def kill(self) -> None:
        """End it if it is still there."""
        self.killed = True
        with contextlib.suppress(OSError):
            self.process.kill()
        self.reader.join()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                file.close()  # type: ignore[union-attr]


def described(left: dict[str, Any]) -> Iterator[str]:
    """What was not sent, in words."""
    if left["epochs"]:
        yield counted(left["epochs"], "epoch")
    if left["cells"]:
        yield counted(left["cells"], "network")
    if left["report"]:
        yield str(left["report"])


def noted_as(choice: ChoiceConfig) -> str:
    """A name for the tracker's file in the run, of its own for other options."""
    text = json.dumps([choice.name, choice.options], sort_keys=True, default=str)
    return f"{choice.name.rpartition(':')[2]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
