"""How far the trainings of a run are: a small file for each in its store, as long as it lasts.

The file is a list in JSON: the epoch that was reached, how many there will be, and the values of each epoch so far in
the order of `VALUES`. Files of older versions end before the values.
"""

import contextlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.storage.store import StorageError, Store

if TYPE_CHECKING:  # which needs PyTorch, and `metaprune status` none of it
    from workloads.training.snapshots import Epoch

FOLDER = "progress"
VALUES = ("learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
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
            content = [len(history), self.epochs, [values_of(epoch) for epoch in history]]
            self.store.write(json.dumps(content).encode(), FOLDER, f"{self.key}.json")

    def forget(self) -> None:
        """Remove the file: the training has ended."""
        with contextlib.suppress(OSError):
            self.store.delete(FOLDER, f"{self.key}.json")


def values_of(epoch: "Epoch") -> list[float | None]:
    """What is known of an epoch, in the order of `VALUES`."""
    loss, accuracy = (epoch.test.loss, epoch.test.accuracy) if epoch.test else (None, None)
    return [epoch.learning_rate, epoch.train_loss, epoch.train_accuracy, loss, accuracy, epoch.seconds]


@dataclass(frozen=True)
class Reached:
    """How far a training is.

    Attributes:
        epoch: that it has reached.
        epochs: that it will have.
        history: a row each epoch so far, with `epoch` and the columns of the table `epochs` that `VALUES` names; empty
            where an older version trains.
    """

    epoch: int
    epochs: int
    history: list[dict[str, float | None]]

    @classmethod
    def loads(cls, content: bytes) -> "Reached":
        """What a file says.

        Raises:
            ValueError, TypeError: it is damaged.
        """
        epoch, epochs, *further = json.loads(content)
        history = [
            {"epoch": number, **dict(zip(VALUES, values, strict=True))}
            for number, values in enumerate(further[0] if further else [], start=1)
        ]
        return cls(int(epoch), int(epochs), history)


def trainings(store: Store, keys: Collection[str] | None = None) -> dict[str, Reached]:
    """By key, how far trainings are that are under way; of the first few that wrote it.

    Args:
        keys: the stages to look for; None is all.
    """
    found: dict[str, Reached] = {}
    try:
        written = store.names(FOLDER)
    except OSError:  # what has to be read later will say what is wrong
        return found
    asked = sorted(name.removesuffix(".json") for name in written) if keys is None else keys
    for key in [key for key in asked if f"{key}.json" in written][:MOST_READ]:
        with contextlib.suppress(OSError, ValueError, TypeError):  # it has just ended, or is damaged
            found[key] = Reached.loads(store.read(FOLDER, f"{key}.json"))
    return found


def epochs_reached(store: Store, keys: Collection[str]) -> dict[str, tuple[int, int]]:
    """By key, the epoch that a training has reached and how many it will have; of the first few that wrote it."""
    return {key: (reached.epoch, reached.epochs) for key, reached in trainings(store, keys).items()}
