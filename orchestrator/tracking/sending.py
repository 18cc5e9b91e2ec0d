"""What the process of a tracker does: follow the run and send what is new, whatever the tracker does, until the end.

It reads from stdin how it shall end, as one line of JSON, and writes lines of JSON that the driver shows: `warning`, a
sentence, and `left`, what could not be sent.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.storage.store import Store, folder_name
from orchestrator.tracking.feed import FOLDER, Feed, Note, Sent
from orchestrator.tracking.interface import End, Run, Tracker, title_of
from orchestrator.tracking.trackers import TRACKER
from workloads.messages import first_line

LOOK_SECONDS = 5.0
CALL_SECONDS = 60.0  # that one call of a tracker may take
AGAIN_SECONDS = (30.0, 600.0)  # before a tracker that failed is tried again: at first, and at most
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class SlowError(Exception):
    """A call of a tracker took longer than it may."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer.

    Raises:
        SlowError: it did.
    """

    def over(signum: int, frame: FrameType | None) -> None:
        raise SlowError(f"it has not answered for {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, where a library swallows the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Sender:
    """Sends a run to one tracker, and goes on with what is left after it has failed.

    Args:
        make: the tracker, new.
        say: takes what the driver shall know.
    """

    def __init__(self, store: Store, name: str, make: Callable[[], Tracker], say: Callable[[Mapping[str, Any]], None]):
        self.store, self.make, self.say = store, make, say
        self.feed, self.note = Feed(store), Note(store, name)
        self.sent = self.note.read()
        self.tracker: Tracker | None = None
        self.next_try, self.pause = float("-inf"), AGAIN_SECONDS[0]
        self.warned = False
        self.artifact_left = ""

    @property
    def run(self) -> Run:
        """What the tracker gets to know of the run."""
        here = Path(self.store.uri) if "://" not in self.store.uri else Path("runs", folder_name(self.store.uri))
        name = self.feed.settings()["name"]
        return Run(folder_name(self.store.uri), str(name), self.store.uri, (here / FOLDER).absolute())

    def step(self, *, now: bool = False) -> bool:
        """Look for what is new and send it; whether all that there is was sent."""
        with self.noticing():
            self.feed.look(self.sent)
            if now or time.monotonic() >= self.next_try:
                self.send()
                return True
        return False

    def send(self) -> None:
        """Send what waits. What has arrived does not come again, even where a later row fails."""
        tracker = self.tracker or self.opened()
        try:
            while self.feed.waiting:
                item = self.feed.waiting[0]
                call = tracker.cell if item.kind == "cell" else tracker.epoch
                if not self.sent.has(item):
                    with limited(CALL_SECONDS):
                        call(title_of(item.row), item.row)
                self.sent.add(item)
                self.feed.waiting.popleft()
                self.note.write(self.sent)
        finally:
            self.note.write(self.sent, now=True)
        self.pause = AGAIN_SECONDS[0]

    def opened(self) -> Tracker:
        """The tracker, which goes on in what it began earlier."""
        tracker = self.make()
        with limited(CALL_SECONDS):
            named = tracker.open(self.run, self.sent.id)
        self.tracker = tracker
        if self.sent.id is None:
            self.sent.id = named
        elif named != self.sent.id:  # what was sent is gone
            self.sent = Sent(named)
            self.feed = Feed(self.store)
            self.feed.look(self.sent)
        self.note.write(self.sent, now=True)
        with limited(CALL_SECONDS):
            tracker.parameters(self.feed.settings())
        return tracker

    def end(self, end: End, report: str | None) -> None:
        """Send the rest and the report, and let the tracker close."""
        self.artifact_left = "the report" if report else ""
        complete = self.step(now=True)
        if complete and self.tracker and report:
            with self.noticing():
                with limited(CALL_SECONDS):
                    self.tracker.artifact(Path(report))
                self.artifact_left = ""
        if self.tracker:
            with self.noticing(), limited(CALL_SECONDS):
                self.tracker.close(end)
        self.tell_left()

    def tell_left(self) -> None:
        """Say what was not sent."""
        kinds = [item.kind for item in self.feed.waiting]
        self.say({"epochs": kinds.count("epoch"), "cells": kinds.count("cell"), "report": self.artifact_left})

    @contextlib.contextmanager
    def noticing(self) -> Iterator[None]:
        """Take whatever is raised for a reason to try again later; the first one is told."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.tracker = None
            self.next_try = time.monotonic() + self.pause
            self.pause = min(2 * self.pause, AGAIN_SECONDS[1])
            if not self.warned:
                self.say({"warning": first_line(error)})
            self.warned = True


def main(given: Mapping[str, Any], lines: int) -> None:
    """Follow a run until stdin says how to end, or the driver is gone.

    Args:
        given: `uri` of the run, `tracker` and `options`, and the `name` of what is noted.
        lines: descriptor of the file that the driver reads.
    """
    for number in ENDING:  # the driver gets these too, and says how to end
        signal.signal(number, lambda signum, frame: None)
    output = os.fdopen(lines, "w", encoding="utf-8")
    orders = open(0, "rb", 0, closefd=False)  # noqa: SIM115 - not buffered, or `select` would not see a line in memory

    def say(what: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the driver is gone
            print(json.dumps(what), file=output, flush=True)

    plugin = TRACKER.plugin(given["tracker"], given["options"])
    sender = Sender(Store(given["uri"]), given["name"], lambda: plugin.function(**plugin.options), say)
    while True:
        sender.step()
        if select.select([orders], [], [], LOOK_SECONDS)[0]:
            line = orders.readline()
            ending = json.loads(line) if line else {"end": "stopped", "report": None}
            sender.end(**ending)
            return
