"""How far the trainings of a run are: a small file for each in its store, as long as it lasts."""

import contextlib
import json
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from orchestrator.storage.store import StorageError, Store

if TYPE_CHECKING:  # which needs PyTorch, and `metaprune status` none of it
    from workloads.training.snapshots import Epoch

FOLDER = "progress"
UPDATE_SECONDS = 5.0
MOST_READ = 8


class TrainingProgress:
    """Writes into the run which epoch a training has reached, at most every few seconds; called after each epoch.

    Args:
        key: of the training's stage.
        epochs: that it will have.
    """

    def __init__(self, store: Store, key: str, epochs: int):
        self.store, self.key, self.epochs = store, key, epochs
        self.last_update = time.monotonic()

    def __call__(self, history: "Sequence[Epoch]") -> None:
        if time.monotonic() - self.last_update < UPDATE_SECONDS:
            return
        self.last_update = time.monotonic()
        with contextlib.suppress(StorageError):  # what has to be written later will say what is wrong
            self.store.write(json.dumps([len(history), self.epochs]).encode(), FOLDER, f"{self.key}.json")

    def forget(self) -> None:
        """Remove the file: the training has ended."""
        with contextlib.suppress(OSError):
            self.store.delete(FOLDER, f"{self.key}.json")


def epochs_reached(store: Store, keys: Collection[str]) -> dict[str, tuple[int, int]]:
    """By key, the epoch that a training has reached and how many it will have; of the first few that wrote it."""
    found: dict[str, tuple[int, int]] = {}
    try:
        written = store.names(FOLDER)
    except OSError:  # what has to be read later will say what is wrong
        return found
    for key in [key for key in keys if f"{key}.json" in written][:MOST_READ]:
        try:
            epoch, epochs = json.loads(store.read(FOLDER, f"{key}.json"))
            found[key] = int(epoch), int(epochs)
        except (OSError, ValueError, TypeError):  # it has just ended, or is damaged
            continue
    return found
