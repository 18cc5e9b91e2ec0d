"""The folder of a data set's files."""

from collections.abc import Callable, Collection
from pathlib import Path

from workloads.config import DatasetConfig

MEASURED_ON = ("test", "validation", "valid", "val", "dev")
HIDDEN = ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN")


def existing_root(config: DatasetConfig) -> Path:
    """The folder `dataset.root`; ValueError where it is not given, FileNotFoundError where it is no folder."""
    if config.root is None:
        raise ValueError(f"dataset '{config.name}' needs dataset.root, the folder that holds train and test")
    root = expanded(config.root)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root '{root}' is not a folder: give the one that holds train and test")
    return root


def expanded(root: str | Path) -> Path:
    """The path `dataset.root`, `~` being the user's home; ValueError where it is that of an unknown user."""
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise ValueError(f"dataset.root '{root}': this machine has no such user, or you have no home folder") from error


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or a tool, as macOS's `._0.png` does."""
    return name.startswith(".") or name in HIDDEN


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def base_of(root: Path, split: str, holds: Callable[[Path, str], bool]) -> Path:
    """The folder that holds a split: `root`, or the one folder in it that does, such as the Hub's `data`.

    Raises:
        ValueError: several folders do.
    """
    if holds(root, split):
        return root
    found = [folder for folder in folders_in(root) if holds(folder, split)]
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise ValueError(
            f"dataset.root '{root}' holds several data sets: give the folder of one of them instead: {names}"
        )
    return found[0] if found else root


def parts_of(config: DatasetConfig) -> dict[str, str]:
    """The splits that are read, by what they are used for: train, and test unless a share of train is held out."""
    splits = {"train": config.train}
    return splits if config.held_out else {**splits, "test": config.test or "test"}


def measured_on(splits: Collection[str]) -> str | None:
    """Which of a data set's splits is measured on where no setting says so; None where none has a usual name."""
    return next((name for name in MEASURED_ON if name in splits), None)
