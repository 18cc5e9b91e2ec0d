"""How far a run is: a live view on a terminal, plain lines in a log."""

import sys
import time
from collections import Counter
from collections.abc import Collection
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

LOG_SECONDS = (15.0, 60.0)  # between two lines of a log: in the beginning, and of a long run


class Progress(Protocol):
    """What the driver tells while it runs."""

    def start(self, total: Counter[str], done: Counter[str], cost: float) -> None:
        """Stages by kind, in all and already done; `cost` is the estimated work of the others."""

    def running(self, kinds: Counter[str]) -> None:
        """Stages by kind that are with workers now."""

    def training(self, epochs: Collection[tuple[int, int]]) -> None:
        """The epochs that trainings have reached, and how many they will have."""

    def finished(self, kind: str, key: str, cost: float, error: str | None) -> None:
        """One stage has ended; `cost` is its share of the estimated work."""

    def dropped(self, cost: float) -> None:
        """So much of the estimated work will not be done, as it waits for a stage that failed."""

    def note(self, text: str) -> None:
        """Something happened that a user should know."""

    def stop(self) -> None:
        """Nothing more will come."""


class Tally:
    """Counts of a run, and how long it will take."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.active: Counter[str] = Counter()
        self.epochs: Collection[tuple[int, int]] = ()
        self.before = 0
        self.cost_left = self.cost_ended = 0.0
        self.started = time.monotonic()

    def start(self, total: Counter[str], done: Counter[str], cost: float) -> None:
        self.total, self.done, self.before = total, Counter(done), done.total()
        self.cost_left = cost
        self.started = time.monotonic()

    def running(self, kinds: Counter[str]) -> None:
        self.active = kinds

    def training(self, epochs: Collection[tuple[int, int]]) -> None:
        self.epochs = epochs

    def finished(self, kind: str, key: str, cost: float, error: str | None) -> None:
        (self.failed if error else self.done)[kind] += 1
        self.cost_left -= cost
        self.cost_ended += cost

    def dropped(self, cost: float) -> None:
        self.cost_left -= cost

    def ended(self) -> int:
        """Stages that ended in this session."""
        return self.done.total() - self.before + self.failed.total()

    def rate(self) -> float:
        """Stages a second since the start."""
        return self.ended() / self.elapsed()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self.started, 1e-9)

    def seconds_left(self) -> float | None:
        """At the speed so far, by estimated work; None before anything has ended."""
        return self.elapsed() * max(self.cost_left, 0.0) / self.cost_ended if self.cost_ended else None

    def summary(self) -> str:
        """One line: how far, how many failed and running, at which epochs, how fast, how long."""
        done, total = self.done.total(), self.total.total()
        parts = [f"{done}/{total} stages", f"{self.failed.total()} failed", f"{self.active.total()} running"]
        if self.epochs:
            parts.append("epochs " + " ".join(f"{epoch}/{epochs}" for epoch, epochs in self.epochs))
        parts += [frequency(self.rate()), f"{duration(self.elapsed())} elapsed"]
        left = self.seconds_left()
        return ", ".join(parts + ([f"{duration(left)} left"] if left is not None else []))


class LogProgress(Tally):
    """Plain lines: at the start, at the end, at each failure, and now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self.stream = stream or sys.stdout
        self.printed = 0.0

    def line(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=self.stream, flush=True)
        self.printed = time.monotonic()

    def start(self, total: Counter[str], done: Counter[str], cost: float) -> None:
        super().start(total, done, cost)
        kinds = ", ".join(f"{kind} {count}" for kind, count in total.items())
        self.line(f"{total.total()} stages ({kinds}); {done.total()} already done")

    def finished(self, kind: str, key: str, cost: float, error: str | None) -> None:
        super().finished(kind, key, cost, error)
        if error:
            self.line(f"FAILED {kind} {key}: {error}")

    def note(self, text: str) -> None:
        self.line(text)

    def running(self, kinds: Counter[str]) -> None:
        super().running(kinds)
        soonest, latest = LOG_SECONDS
        if time.monotonic() - self.printed >= min(max(self.elapsed() / 20, soonest), latest):
            self.line(self.summary())

    def stop(self) -> None:
        self.active = Counter()
        self.line(self.summary())


class LiveProgress(Tally):
    """A table by kind that renews itself on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.live = Live(console=console or Console(), refresh_per_second=4, get_renderable=self.view)

    def start(self, total: Counter[str], done: Counter[str], cost: float) -> None:
        super().start(total, done, cost)
        self.live.start()

    def finished(self, kind: str, key: str, cost: float, error: str | None) -> None:
        super().finished(kind, key, cost, error)
        if error:
            self.live.console.print(f"[red]failed[/red] {kind} {key}: ", end="")
            self.live.console.print(error, markup=False, highlight=False)

    def note(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False)

    def view(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        for name in ("done", "running", "failed", "all"):
            table.add_column(name, justify="right")
        for kind, count in self.total.items():
            cells = (self.done[kind], self.active[kind], self.failed[kind], count)
            table.add_row(kind, *(str(cell) for cell in cells))
        return Group(table, Text(self.summary()))

    def stop(self) -> None:
        self.active = Counter()
        self.live.stop()


class NoProgress(Tally):
    """Counts in silence."""

    def note(self, text: str) -> None:
        pass

    def stop(self) -> None:
        self.active = Counter()


def for_terminal() -> Progress:
    """The live view where stdout is a terminal, plain lines elsewhere."""
    return LiveProgress() if sys.stdout.isatty() else LogProgress()


def frequency(rate: float) -> str:
    """Events a second as 12/s, 3.4/min or 0.8/h."""
    units = {"s": 1, "min": 60, "h": 3600}
    unit = next((unit for unit, seconds in units.items() if rate * seconds >= 1), "h")
    count = rate * units[unit]
    return f"{count:.2g}/{unit}" if count < 10 else f"{count:.0f}/{unit}"


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 05 s or 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
