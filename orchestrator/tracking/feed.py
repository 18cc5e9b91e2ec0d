"""What of a run a tracker has not got yet, and a note in the run of what it has."""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from orchestrator.storage.following import NewRows
from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import EXPERIMENT, Store
from orchestrator.tracking.interface import Value
from orchestrator.worker.training_progress import trainings

FOLDER = "tracking"
TRAINING_KINDS = ("train", "fine-tune")
NOTE_SECONDS, NOTE_SHARE = (
    10.0,
    0.05,
)  # between two notes of what was sent, and the share of the time that they may take
LEFT_OUT = {"settings", "schema_version", "environment"}


@dataclass(frozen=True)
class Item:
    """A row that is to be sent: an epoch, or a measured network."""

    kind: Literal["epoch", "cell"]
    row: Mapping[str, Any]


@dataclass
class Sent:
    """What a tracker has got.

    Attributes:
        id: what it has named its part; None before it began.
        epochs: the last epoch of each training.
        cells: keys of the measured networks.
    """

    id: str | None = None
    epochs: dict[str, int] = field(default_factory=dict)
    cells: set[str] = field(default_factory=set)

    def has(self, item: Item) -> bool:
        """Whether it has got a row."""
        key = item.row["cell"]
        return key in self.cells if item.kind == "cell" else item.row["epoch"] <= self.epochs.get(key, 0)

    def add(self, item: Item) -> None:
        """It has got a row."""
        key = item.row["cell"]
        if item.kind == "cell":
            self.cells.add(key)
        else:
            self.epochs[key] = max(int(item.row["epoch"]), self.epochs.get(key, 0))


class Note:
    """The file of the run that says what a tracker has got.

    Args:
        name: of the tracker, with what tells it from others.
    """

    def __init__(self, store: Store, name: str):
        self.store, self.place = store, (FOLDER, f"{name}.json")
        self.written, self.took = float("-inf"), 0.0

    def read(self) -> Sent:
        """What it says; nothing was sent where there is none, or it is damaged."""
        try:
            found = json.loads(self.store.read(*self.place))
            return Sent(found["id"], dict(found["epochs"]), set(found["cells"]))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return Sent()

    def write(self, sent: Sent, *, now: bool = False) -> None:
        """Say what was sent, unless that was done lately.

        Raises:
            StorageError: the run cannot be written to.
        """
        started = time.monotonic()
        if not now and started - self.written < max(NOTE_SECONDS, self.took / NOTE_SHARE):
            return
        text = json.dumps({"id": sent.id, "epochs": sent.epochs, "cells": sorted(sent.cells)})
        self.store.write(text.encode(), *self.place)
        self.written = time.monotonic()
        self.took = self.written - started


class Feed:
    """The rows of a run as they come: of the stages that its present plan has, with the coordinates that this gives."""

    def __init__(self, store: Store):
        self.store = store
        names = [name for name in SCHEMAS["plan"].names if name not in {"inputs", *LEFT_OUT}]
        self.plan = store.read_table("plan", names)
        self.places = {key: place for place, key in enumerate(self.plan["cell"].to_pylist())}
        self.tables = {
            table: NewRows(store, table, [name for name in SCHEMAS[table].names if name not in LEFT_OUT])
            for table in ("epochs", "evaluations")
        }
        self.waiting: deque[Item] = deque()

    def settings(self) -> dict[str, Value]:
        """The settings of the experiment, keys with dots."""
        return dict(flat("", yaml.safe_load(self.store.read(EXPERIMENT))))

    def look(self, sent: Sent) -> None:
        """Let what is new and was not sent wait: epochs of a training before its network's row.

        Raises:
            pa.ArrowException, OSError, ValueError: a file of the run cannot be read.
        """
        for key, reached in trainings(self.store).items():
            self.take(Item("epoch", {"cell": key, **row}) for row in reached.history)
        for part in self.tables["epochs"].parts():
            self.take(Item("epoch", row) for row in sorted(part.to_pylist(), key=lambda row: row["epoch"]))
        for part in self.tables["evaluations"].parts():
            self.take(Item("cell", row) for row in part.to_pylist())
        seen: set[tuple[str, int]] = set()
        fresh = deque[Item]()
        for item in self.waiting:
            name = item.row["cell"], item.row.get("epoch", 0) if item.kind == "epoch" else -1
            if name not in seen and not sent.has(item):
                seen.add(name)
                fresh.append(item)
        self.waiting = fresh

    def take(self, items: Iterator[Item]) -> None:
        """Let rows of planned stages wait, if they are epochs or networks that the report shows."""
        for item in items:
            place = self.places.get(item.row["cell"])
            if place is None:
                continue
            planned = self.plan.slice(place, 1).to_pylist()[0]
            row = {name: value for name, value in {**item.row, **present(planned)}.items() if value is not None}
            if item.kind == "epoch" or row.get("final") or row.get("stage") == "baseline":
                self.waiting.append(Item(item.kind, row))


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that are not null."""
    return {name: value for name, value in row.items() if value is not None and name != "kind"}


def flat(prefix: str, value: Any) -> Iterator[tuple[str, Value]]:
    """Settings within settings as names with dots; lists of plain values as text."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from flat(f"{prefix}.{number}", inner)
    elif value is None or isinstance(value, (str, int, float, bool)):
        yield prefix, value
    else:
        yield prefix, yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
