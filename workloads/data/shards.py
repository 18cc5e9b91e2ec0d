"""Which Parquet files of a folder hold a split: one file, or one whole set of shards.

Known names are those of the Hub and of `datasets`: `train.parquet`, `train-00000-of-00002.parquet` (also with the
digest that old versions add), `train-0.parquet`, and any files in a folder `train/`; the folder itself may be one
configuration of several, or `data/`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from workloads.data.roots import folders_in, is_hidden

SHARD = re.compile(r"(?P<name>.+?)(?P<join>[-_.]?)(?P<number>\d+)(?:-of-(?P<count>\d+))?(?:-[0-9a-f]{16})?")


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in a folder, hidden ones left out, sorted."""
    return [file for file in sorted(folder.glob("*.parquet")) if not is_hidden(file.name)]


def has_split(folder: Path, split: str) -> bool:
    """Whether a folder has files of this split, or files whose names begin with it."""
    return bool(parquet_files(folder / split)) or any(file.name.startswith(split) for file in parquet_files(folder))


def splits_in(folder: Path) -> list[str]:
    """The names of the splits in a folder."""
    names = {_name(file) for file in parquet_files(folder)}
    inside = {path.name for path in folders_in(folder) if parquet_files(path)}
    return sorted(names | inside)


def files_of(folder: Path, split: str, setting: str) -> list[Path]:
    """The files of a split, in the order in which they are read.

    Args:
        setting: what names the split, for messages: `dataset.test`.

    Raises:
        FileNotFoundError: there are none; the message names what there is.
        ValueError: there are several sets of files, or a shard is missing.
    """
    sets = _sets_of(folder, split)
    exact = {name: files for name, files in sets.items() if _is_of(files, split, folder)}
    found = exact or sets
    if not found:
        others = splits_in(folder)
        raise FileNotFoundError(
            f"dataset.root '{folder}' holds neither {split}.parquet nor {split}/*.parquet"
            + (
                f"; it holds {', '.join(others)}: name one of them as {setting}"
                + (", or give dataset.held_out, a share of the training images" if setting == "dataset.test" else "")
                if others
                else ""
            )
        )
    if len(found) > 1:
        raise ValueError(
            f"'{folder}' holds several sets of files for {split}: {', '.join(found)}; leave one of them there, or name "
            f"one as {setting}"
        )
    ((name, files),) = found.items()
    return _whole(files, name)


class MissingShard(ValueError):
    """Of a set of files one is missing, or there twice; the message names it."""


def check_shards(files: Iterable[Path]) -> None:
    """Make sure that of no counted set of files (`train-00000-of-00002.parquet`) one is missing.

    Raises:
        MissingShard: one is, or is there twice.
    """
    sets: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted(files):
        shard = _parsed(file)
        if shard and shard["count"]:
            sets.setdefault((file.parent, _set_name(file, "")), []).append(file)
    for (_, name), files in sets.items():
        _whole(files, name)


def _sets_of(folder: Path, split: str) -> dict[str, list[Path]]:
    """Sets of files whose names begin with a split's, by a name for messages."""
    sets: dict[str, list[Path]] = {}
    for file in parquet_files(folder):
        if file.name.startswith(split):
            sets.setdefault(_set_name(file, split), []).append(file)
    if inside := parquet_files(folder / split):
        sets[f"{split}/"] = inside
    return sets


def _parsed(file: Path, split: str = "") -> re.Match[str] | None:
    return None if file.stem == split else SHARD.fullmatch(file.stem)


def _name(file: Path) -> str:
    shard = _parsed(file)
    return shard["name"] if shard else file.stem


def _set_name(file: Path, split: str) -> str:
    shard = _parsed(file, split)
    if shard is None:
        return file.name
    return f"{shard['name']}-*-of-{shard['count']}" if shard["count"] else f"{shard['name']}{shard['join']}*"


def read_as(files: Sequence[Path], split: str) -> str:
    """A sentence where a split is read from files that only begin with its name; empty elsewhere."""
    name = _name(files[0])
    return "" if split in (files[0].stem, name, files[0].parent.name) else f"{split} is read from {name}."


def _is_of(files: Sequence[Path], split: str, folder: Path) -> bool:
    """Whether a set has exactly the name of the split, not one that only begins with it."""
    return files[0].parent != folder or files[0].stem == split or _name(files[0]) == split


def _whole(files: list[Path], name: str) -> list[Path]:
    """The files, unless they count shards of which one is missing, there twice, or another set's."""
    counted = [shard for file in files if (shard := _parsed(file)) and shard["count"]]
    if not counted:
        return files
    folder, kinds = files[0].parent, sorted({_set_name(file, "") for file in files})
    if len(kinds) > 1:
        raise ValueError(f"'{folder}' holds several sets of files: {', '.join(kinds)}; leave one of them there")
    wanted, numbers = int(counted[0]["count"]), Counter(int(shard["number"]) for shard in counted)
    for number in range(wanted):
        if numbers[number] != 1:
            state, remedy = (
                ("missing", "fetch it") if not numbers[number] else ("there twice", "leave one of them there")
            )
            raise MissingShard(f"of the {wanted} shards {name} in '{folder}', number {number} is {state}: {remedy}")
    if len(numbers) > wanted:
        raise MissingShard(f"'{folder}' has a shard {max(numbers)} of {wanted} ({name}): remove it")
    return files
