"""What a tracker is, and how it calls what it shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Value = str | int | float | bool | None
End = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class Run:
    """What a tracker gets to know of a run.

    Attributes:
        name: the last part of its folder or URI.
        experiment: the name of the experiment.
        uri: its folder or URI.
        folder: of this machine, for what the tracker keeps in files; it may not be there yet.
    """

    name: str
    experiment: str
    uri: str
    folder: Path


class Tracker(Protocol):
    """Shows a run somewhere. Options are keyword-only arguments of the class.

    Its methods are called in a process of its own, one after the other, and may raise: what they were called with comes
    again later. `row["cell"]` is the key of the stage that made a row; epochs and cells of one key are of one network.
    Rows have no columns that are null.
    """

    def open(self, run: Run, earlier: str | None) -> str:
        """Begin, or go on in what an earlier session of the run has begun.

        Args:
            earlier: what this returned then; None where there was none.

        Returns:
            What names it, to be given to the next session. Where that is another name than `earlier`, everything is
            sent again.
        """

    def parameters(self, settings: Mapping[str, Value]) -> None:
        """The complete settings of the experiment, keys with dots: `training.epochs`."""

    def epoch(self, title: str, row: Mapping[str, Any]) -> None:
        """An epoch of a training or fine-tuning: a row of the table `epochs`, under a short title of the network."""

    def cell(self, title: str, row: Mapping[str, Any]) -> None:
        """A measured network: a row of the table `evaluations`, likewise."""

    def artifact(self, folder: Path) -> None:
        """The report of the run: a folder with `index.html`, figures and tables."""

    def close(self, end: End) -> None:
        """Send what is still here, and end."""


SETTINGS_OF_A_NETWORK = (
    "experiment",
    "cell",
    "model",
    "dataset",
    "training_data",
    "pipeline",
    "folds",
    "split",
    "fusion",
    "seed",
    "method",
    "criterion",
    "group",
    "groups",
    "kinds",
    "target_sparsity",
    "sparsity_of",
    "allocation",
    "repair",
    "stage",
    "step",
    "final",
)
"""Columns that say which network a row is about; the other numbers of a row are measured."""
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate", "seconds")
NOT_MEASURED = {*SETTINGS_OF_A_NETWORK, "schema_version", "round_to", "epoch"}


def settings_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row says which network it is about."""
    return {name: row[name] for name in SETTINGS_OF_A_NETWORK if name in row}


def measured_in(row: Mapping[str, Any]) -> dict[str, float]:
    """The measured numbers of a row of `evaluations`."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in NOT_MEASURED and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def curves_in(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of `epochs` that are drawn against the epoch."""
    return {name: float(row[name]) for name in CURVES if name in row}


def title_of(row: Mapping[str, Any]) -> str:
    """A network in a few words: `resnet18, fap, l1, intra-fusion, group 3, 50 %, seed 0`."""
    groups = f"group {row['group']}" if "group" in row else f"groups {row['groups']}" if "groups" in row else ""
    sparsity = f"{100 * row['target_sparsity']:g} %" if "target_sparsity" in row else ""
    step = f"step {row['step']}" if "step" in row else ""
    parts = [
        str(row.get("model", "network")),
        str(row.get("training_data", "")),
        str(row.get("pipeline", "")),
        str(row.get("criterion", "")),
        str(row.get("method", "")),
        groups,
        sparsity,
        step,
        f"seed {row['seed']}" if "seed" in row else "",
    ]
    return ", ".join(part for part in parts if part)
