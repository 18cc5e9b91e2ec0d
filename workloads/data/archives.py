"""Images in webdataset shards: tar files in which the files of one sample lie side by side and share their name.

Shards are read by their places, not as streams: the heads of all entries are read once, and an image is then fetched
from its place when it is asked for. So images come in any order, and no more of them is in memory than with files.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workloads.config import DatasetConfig
from workloads.data.decoding import Encoded, content_problem
from workloads.data.encoded import EncodedPart, source_of
from workloads.data.fingerprints import fingerprint_of
from workloads.data.image_folder import IMAGE_FILES
from workloads.data.labels import LabelColumn, matched
from workloads.data.naming import name_of
from workloads.data.roots import base_of, existing_root, expanded, is_hidden, measured_on, parts_of
from workloads.data.samples import Source
from workloads.messages import message

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
SHARD = re.compile(r"(?:(?P<set>.*)[-_.])?(?P<split>[^\d\W]+)[-_.]?(?P<number>\d+)?(?:-of-(?P<count>\d+))?")
LABEL_OF_JSON = "label"


@dataclass(frozen=True)
class Entry:
    """An image in a shard.

    Attributes:
        shard: the tar file.
        name: of the sample, without the ending of its files.
        offset, size: place of the image in bytes.
        label: number of its class.
    """

    shard: Path
    name: str
    offset: int
    size: int
    label: int

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"sample '{self.name}' of '{self.shard}'"


class ArchivedImages(Sequence[Encoded]):
    """The images of shards, each read from its place in its file when it is asked for."""

    def __init__(self, entries: list[Entry]):
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        entry = self.entries[index]
        with entry.shard.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)

    def place(self, index: int) -> str:
        """Where an image is, for messages."""
        return self.entries[index].place


@dataclass(frozen=True)
class ArchivedLabels(LabelColumn):
    """Labels of samples in shards."""

    entries: tuple[Entry, ...] = ()

    def place(self, index: int) -> str:
        """Where the label of an image stands, for messages."""
        return f"the label of {self.entries[index].place}"

    @property
    def whole(self) -> str:
        """All of them, for messages."""
        return f"the shards of '{self.entries[0].shard.parent}'"


def wds(config: DatasetConfig) -> Source:
    """Webdataset shards, `wds:FOLDER` or `wds:FOLDER/train-{000..009}.tar`: images with `.cls` or `.json` beside."""
    base = base_of(existing_root(config), config.train, lambda folder, split: bool(shards_of(folder, split)))
    shards: list[Path] = []
    entries: dict[str, list[Entry]] = {}
    labels: dict[str, LabelColumn] = {}
    for part, split in parts_of(config).items():
        files = whole_set(base, split, f"dataset.{part}")
        shards += files
        entries[part] = found = [entry for file in files for entry in entries_of(file)]
        if not found:
            raise ValueError(f"the shards of {split} hold no images: '{files[0]}' has none of {', '.join(IMAGE_FILES)}")
        values = np.array([entry.label for entry in found], np.int64)
        labels[part] = ArchivedLabels(values, None, "cls", ((files[0], len(found)),), entries=tuple(found))
    classes, test_labels, notes = matched(labels["train"], labels.get("test"))
    numbers = {"train": labels["train"].values, "test": test_labels}
    parts = {}
    for part, found in entries.items():
        images = ArchivedImages(found)
        parts[part] = EncodedPart(images, torch.from_numpy(numbers[part]), images.place)
    return source_of(config, parts, fingerprint_of(shards, base), classes, notes=notes, label=name_of(base))


def settled(config: DatasetConfig) -> DatasetConfig:
    """The settings with the folder and the shards that the name says, and the split that is measured on."""
    if config.place:
        place = expanded(config.place)
        named = {} if place.is_dir() else {"train": place.name.removesuffix(".tar")}
        root = place if place.is_dir() else place.parent
        config = config.model_copy(update={"name": config.reader, "root": str(root), **named})
    if config.test or config.held_out or config.root is None or not expanded(config.root).is_dir():
        return config
    base = base_of(expanded(config.root), config.train, lambda folder, split: bool(shards_of(folder, split)))
    measured = measured_on(splits_in(base) - {config.train})
    return config.model_copy(update={"test": measured}) if measured else config


def splits_in(folder: Path) -> set[str]:
    """The names of splits that shards in a folder go by."""
    inside = {path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.tar"))}
    shards = [SHARD.fullmatch(file.stem) for file in folder.glob("*.tar") if not is_hidden(file.name)]
    return inside | {shard["split"] for shard in shards if shard}


def shards_of(folder: Path, split: str) -> list[Path]:
    """The tar files of a split: those that a range names, those in a folder of its name, or of its name, in order."""
    if RANGE.search(split):
        return [folder / f"{name.removesuffix('.tar')}.tar" for name in expanded_ranges(split)]
    if inside := [file for file in sorted((folder / split).glob("*.tar")) if not is_hidden(file.name)]:
        return inside
    if (folder / f"{split.removesuffix('.tar')}.tar").is_file():
        return [folder / f"{split.removesuffix('.tar')}.tar"]
    files = [file for file in sorted(folder.glob("*.tar")) if not is_hidden(file.name)]
    return [file for file in files if (shard := SHARD.fullmatch(file.stem)) and shard["split"] == split]


def expanded_ranges(name: str) -> list[str]:
    """`a-{08..10}` as a-08, a-09, a-10."""
    found = RANGE.search(name)
    if found is None:
        return [name]
    first, last = int(found[1]), int(found[2])
    numbers = [f"{number:0{len(found[1])}}" for number in range(first, last + 1)]
    return [whole for number in numbers for whole in expanded_ranges(name.replace(found[0], number, 1))]


def whole_set(folder: Path, split: str, setting: str) -> list[Path]:
    """The shards of a split.

    Raises:
        FileNotFoundError: there are none, or one is missing.
        ValueError: they are those of several sets.
    """
    files = shards_of(folder, split)
    if not files:
        others = ", ".join(sorted(splits_in(folder)))
        raise FileNotFoundError(
            f"'{folder}' has no shards of {split} (*.tar)"
            + (f"; it has those of {others}: name one as {setting}" if others else ": give another dataset.root")
            + (", or give dataset.held_out, a share of the training images" if setting == "dataset.test" else "")
        )
    if lacking := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"of the {len(files)} shards of {split}, '{lacking[0]}' is missing: fetch it")
    parsed = [shard for file in files if (shard := SHARD.fullmatch(file.stem)) and shard["number"]]
    if len(sets := sorted({shard["set"] or "" for shard in parsed})) > 1:
        raise ValueError(f"'{folder}' holds shards of {split} of several sets ({', '.join(sets)}): leave one there")
    numbers = {int(shard["number"]) for shard in parsed}
    counts = {int(shard["count"]) for shard in parsed if shard["count"]}
    wanted = range(max(numbers, default=-1) + 1) if not counts else range(max(counts))
    if gaps := [] if RANGE.search(split) else sorted({*wanted} - numbers):
        raise FileNotFoundError(
            f"of the shards of {split} in '{folder}', number {gaps[0]} is missing: fetch it, or name those to read as "
            f"{setting}, as in '{split}-{{000..009}}'"
        )
    return files


def entries_of(shard: Path) -> Iterator[Entry]:
    """The images of a shard with their labels, in order.

    Raises:
        ValueError: it is no uncompressed tar file, or a sample has no label, or more than one image.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            name, files = "", dict[str, tarfile.TarInfo]()
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                if not member.isfile() or is_hidden(file):
                    continue
                stem, _, ending = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != name:
                    yield from _entry(tar, shard, name, files)
                    name, files = key, {}
                files[ending.lower()] = member
            yield from _entry(tar, shard, name, files)
    except (tarfile.TarError, EOFError) as error:
        problem = content_problem(shard) or f"is no tar file, compressed or cut off ({message(error)}): fetch it again"
        raise ValueError(f"'{shard}' {problem}" + ", or unpack it with gunzip" * (shard.suffix != ".tar")) from error


def _entry(tar: tarfile.TarFile, shard: Path, name: str, files: dict[str, tarfile.TarInfo]) -> Iterator[Entry]:
    """The image among the files of a sample, with its label; nothing where there are no files, or no image."""
    images = [member for ending, member in files.items() if f".{ending}".endswith(IMAGE_FILES)]
    if not images:
        return
    where = f"sample '{name}' of '{shard}'"
    if len(images) > 1:
        raise ValueError(f"{where} has {len(images)} images ({', '.join(files)}): leave one of them there")
    if "cls" in files:
        text = _content(tar, files["cls"])
    elif "json" in files:
        text = _of_json(_content(tar, files["json"]), where)
    else:
        raise ValueError(f"{where} has no label: it has {', '.join(files)}, not cls or json")
    try:
        label = int(text)
    except ValueError as error:
        raise ValueError(f"the label of {where} is {text[:40]!r}: labels are whole numbers from 0") from error
    if not 0 <= label < 2**31:
        raise ValueError(f"the label of {where} is {label}: labels are whole numbers from 0, without gaps")
    yield Entry(shard, name, images[0].offset_data, images[0].size, label)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member) or io.BytesIO()
    return file.read().decode("utf-8", "replace").strip()


def _of_json(text: str, where: str) -> str:
    """The label in a sample's JSON."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the json of {where} is damaged ({message(error)}): fetch the shard again") from error
    if not isinstance(found, dict) or LABEL_OF_JSON not in found:
        raise ValueError(f"the json of {where} has no '{LABEL_OF_JSON}', and there is no cls: write one of them")
    return str(found[LABEL_OF_JSON])
