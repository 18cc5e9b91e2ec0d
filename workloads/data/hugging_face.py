"""Data sets in the layouts of Hugging Face's `datasets`: of the Hub by name, or of a folder.

The library finds, downloads and keeps the files, and makes tables of them that are mapped into memory; what is read
here are these tables. A data set is known by its content: encoded images, labels and names of classes, whatever commit
or folder they come from.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from workloads.config import DatasetConfig
from workloads.data.cache import cache_folder, replacing
from workloads.data.decoding import Encoded
from workloads.data.encoded import EncodedPart, source_of
from workloads.data.fingerprints import fingerprint_of, joined, settled_stamps
from workloads.data.labels import LabelColumn, matched, named_classes, place_of, whole_numbers
from workloads.data.naming import described_name, known_name, name_of, readme_head
from workloads.data.parquet import check_images, encoded, image_column, label_column
from workloads.data.roots import expanded, measured_on, parts_of
from workloads.data.samples import Source
from workloads.data.shards import MissingShard, check_shards
from workloads.messages import first_line

HELD_OUT = 0.1  # of the training images, where a data set has no split to measure on
COMMIT = re.compile(r"[0-9a-f]{40}")
KEPT_FROM = 1 << 28  # bytes: digests of smaller tables are made each time


@dataclass(frozen=True)
class Opened:
    """A data set as the library gives it.

    Attributes:
        splits: by name.
        folder: where its description lies, README.md and the like; None where that is not known.
        commit: of the Hub; empty for a folder.
        origin: what to call it in messages.
        files: of each split, where it is read from files of a folder.
    """

    splits: Mapping[str, Any]
    folder: Path | None
    commit: str
    origin: str
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)


def hf(config: DatasetConfig) -> Source:
    """A data set of the Hub, `hf:OWNER/NAME`, or a folder of its layouts, `hf:FOLDER`; needs the package `datasets`."""
    found = opened(config)
    parts: dict[str, EncodedPart] = {}
    labels: dict[str, LabelColumn] = {}
    marks: list[str] = []
    columns: tuple[str, str] | None = None
    for part, split in parts_of(config).items():
        table, origin = table_of(found, split, f"dataset.{part}"), f"{found.origin}, {split}"
        if not len(table):
            raise ValueError(f"split '{split}' of '{found.origin}' has no images: name another one as dataset.{part}")
        if columns is None:
            schema = table.schema
            columns = (
                image_column(schema, origin, config.image_column),
                label_column(schema, origin, config.label_column),
            )
        images = TableImages(column_of(table, columns[0], origin), columns[0], origin, config.root)
        labels[part] = labels_of(table, columns[1], origin)
        check_names(labels[part], found.files.get(split, ()))
        parts[part] = EncodedPart(images, torch.from_numpy(labels[part].values), images.place)
        marks.append(joined(images_mark(found.splits[split], images), labels_mark(labels[part])))
    classes, test_labels, notes = matched(labels["train"], labels.get("test"))
    if "test" in parts:
        parts["test"] = EncodedPart(parts["test"].images, torch.from_numpy(test_labels), parts["test"].place)
    return source_of(
        config, parts, joined(*marks), classes, notes=notes, label=label_of(config, found), published=published(found)
    )


def settled(config: DatasetConfig) -> DatasetConfig:
    """The settings with what the Hub or the folder says: the place, the commit, and the split to measure on.

    Raises:
        ValueError: it cannot be had.
    """
    if config.place and expanded(config.place).is_dir():
        config = config.model_copy(update={"name": config.reader, "root": config.place})
    pinned = not config.place or COMMIT.fullmatch(config.revision or "")
    if pinned and (config.test or config.held_out):
        return config
    found = opened(config)
    if found.commit:
        config = config.model_copy(update={"revision": found.commit})
    if config.test or config.held_out:
        return config
    measured = measured_on({*found.splits} - {config.train})
    return config.model_copy(update={"test": measured} if measured else {"held_out": HELD_OUT})


def opened(config: DatasetConfig) -> Opened:
    """The data set, downloaded by `datasets` where it is in none of its caches.

    Raises:
        ValueError: it cannot be had; says where to put what.
        FileNotFoundError: no such folder.
    """
    if not config.place:
        if config.root is None:
            raise ValueError(
                "dataset 'hf' needs a place: give hf:OWNER/NAME, a data set of the Hub, or dataset.root, a folder"
            )
        if config.revision:
            raise ValueError("dataset.revision is of data sets of the Hub, a folder has none: leave it out")
        folder = expanded(config.root)
        if not folder.is_dir():
            raise FileNotFoundError(f"dataset.root '{folder}' is not a folder: give the one that holds the data set")
        return of_folder(folder, config.configuration)
    if config.place.startswith((".", "/", "~")):
        raise FileNotFoundError(f"dataset '{config.name}': there is no folder '{expanded(config.place)}'")
    return of_hub(config)


def library() -> Any:
    """The package `datasets`; ValueError where it is not installed."""
    try:
        found = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            "data sets of 'hf' need the package 'datasets': python -m pip install 'metaprune[datasets]'"
        ) from error
    if not sys.stderr.isatty():
        found.disable_progress_bars()
    return found


def of_folder(folder: Path, configuration: str | None) -> Opened:
    """The splits in a folder: one that `save_to_disk` wrote, or files in a layout that `load_dataset` knows.

    Raises:
        ValueError: it is none, is damaged, or of a set of files one is missing.
    """
    datasets = library()
    place, files = str(folder.absolute()), {}
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = datasets.load_from_disk(place)
        else:
            builder = datasets.load_dataset_builder(place, name=configuration)
            files = {str(split): list(map(Path, paths)) for split, paths in builder.config.data_files.items()}
            for paths in files.values():
                check_shards(paths)
            builder.download_and_prepare()
            found = builder.as_dataset()
    except MissingShard:
        raise
    except Exception as error:  # of datasets, pyarrow, or the file system
        remedy = "name one as dataset.configuration" if "onfig" in reason(error) else "give another dataset.root"
        raise ValueError(f"'{folder}' is no data set that `datasets` can read ({reason(error)}): {remedy}") from error
    splits = found if isinstance(found, Mapping) else {"train": found}
    return Opened(splits, folder, "", str(folder), files)


def of_hub(config: DatasetConfig) -> Opened:
    """A data set of the Hub, from the caches of `datasets` and `huggingface_hub`, or downloaded."""
    datasets = library()
    name, wanted = config.place, commit_of(config)
    cached = functools.partial(of_snapshot, config, wanted)
    try:
        splits = datasets.load_dataset(name, name=config.configuration, revision=wanted or None)
        if not isinstance(splits, Mapping):
            raise ValueError("it has no splits")
        commit = commit_in(splits)
        if wanted and commit and commit != wanted:  # without a network the library gives whatever commit it has
            raise ValueError(f"the cache of `datasets` has its commit {commit[:12]}, not {wanted[:12]}")
    except Exception as error:  # of datasets, huggingface_hub, httpx or the file system
        if (found := cached()) is None:
            raise not_had(config, error) from error
        return found
    described = snapshot(name, commit or wanted, only="README.md")
    return Opened(splits, described, commit or wanted, f"hf:{name}")


def commit_of(config: DatasetConfig) -> str:
    """The commit that `dataset.revision` means: a branch or a tag is looked up on the Hub, or in its cache.

    Raises:
        ValueError: neither knows it.
    """
    wanted = config.revision or ""
    if not wanted or COMMIT.fullmatch(wanted):
        return wanted
    hub = importlib.import_module("huggingface_hub")
    try:
        return str(hub.HfApi().dataset_info(config.place, revision=wanted).sha)
    except Exception as error:  # of huggingface_hub or httpx
        if found := snapshot(config.place, wanted):
            return found.name
        raise not_had(config, error) from error


def of_snapshot(config: DatasetConfig, commit: str) -> Opened | None:
    """The data set from a folder of the Hub's cache, as `hf download` fills it; None where there is none."""
    folder = snapshot(config.place, commit)
    if folder is None or not any(path.name != "README.md" for path in folder.iterdir()):
        return None
    return replace(of_folder(folder, config.configuration), commit=folder.name, origin=f"hf:{config.place}")


def snapshot(name: str, revision: str, only: str | None = None) -> Path | None:
    """The folder of a revision in the Hub's cache, where it is; looks nowhere else."""
    hub = importlib.import_module("huggingface_hub")
    try:
        folder = hub.snapshot_download(
            name, repo_type="dataset", revision=revision or None, local_files_only=True, allow_patterns=only
        )
    except Exception:  # it is not there, or the name is none of the Hub's
        return None
    return Path(folder)


def commit_in(splits: Mapping[str, Any]) -> str:
    """The commit that the library's cache names its files by; empty where it does not."""
    for split in splits.values():
        for file in split.cache_files:
            for folder in Path(file["filename"]).parents[:2]:
                if COMMIT.fullmatch(folder.name):
                    return folder.name
    return ""


def not_had(config: DatasetConfig, error: Exception) -> ValueError:
    """What to do about a data set that cannot be had."""
    what = f"'{config.name}'" + (f" at revision '{config.revision}'" if config.revision else "")
    if "onfig name" in reason(error):
        return ValueError(f"{what} has several configurations ({reason(error)}): name one as dataset.configuration")
    hub = importlib.import_module("huggingface_hub").constants
    folder = f"datasets--{config.place.replace('/', '--')}"
    return ValueError(
        f"{what} cannot be had ({reason(error)}): let this machine reach the Hub once, copy the folder '{folder}' of a "
        f"machine that did into '{hub.HF_HUB_CACHE}', or download it elsewhere and give {{name: hf, root: FOLDER}}"
    )


def reason(error: BaseException) -> str:
    """What is at the bottom of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = first_line(error)
    return text.partition(" Example of usage")[0]


def table_of(found: Opened, split: str, setting: str) -> pa.Table:
    """The table of a split, with the names of classes in its schema.

    Raises:
        ValueError: there is no such split; says which there are.
    """
    if split not in found.splits:
        raise ValueError(
            f"'{found.origin}' has no split '{split}': it has {', '.join(found.splits)}; name one of them as {setting}"
        )
    data = found.splits[split]
    data = data.flatten_indices() if data._indices is not None else data
    table: pa.Table = data.data.table
    return table.replace_schema_metadata(data.features.arrow_schema.metadata)


def column_of(table: pa.Table, name: str, origin: str) -> pa.ChunkedArray:
    """A column of images; ValueError where there is none of this name, or it holds something else."""
    if name not in table.column_names:
        raise ValueError(
            f"'{origin}' has no column '{name}', which the training images are in; it has: "
            f"{', '.join(table.column_names)}"
        )
    check_images(table.schema.field(name), origin)
    return table.column(name)


class TableImages(Sequence[Encoded]):
    """The images in a column of a table, fetched one by one.

    Args:
        column: N structs of `bytes` and `path`, or bytes, or paths.
        name: of the column.
        origin: what to call the table in messages.
        root: the folder that paths are looked for in; None is the current one.
    """

    def __init__(self, column: pa.ChunkedArray, name: str, origin: str, root: str | None):
        self.column = column
        self.name = name
        self.origin = origin
        self.beside = (expanded(root) if root else Path()) / origin.rpartition(", ")[2]

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
        return encoded(self.column[index].as_py(), self.beside, self.place(index))

    def place(self, index: int) -> str:
        """Where an image stands, for messages."""
        return place_of(self.origin, index, self.name)


def images_mark(split: Any, images: TableImages) -> str:
    """A digest of all images as they are encoded, in order; of large tables kept while their files stay as they are."""
    stamps = settled_stamps([Path(file["filename"]) for file in split.cache_files], KEPT_FROM)
    place = cache_folder() / "digests" / f"{joined(stamps, images.name)}.txt"
    if stamps:
        with contextlib.suppress(OSError):
            return place.read_text(encoding="ascii")
    kind = images.column.type
    content, outside = images.column, np.zeros(0, np.int64)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        content = pc.struct_field(content, "bytes")
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        content = pa.chunked_array([pa.nulls(len(content), pa.binary())])
    if content.null_count:
        outside = np.flatnonzero(content.is_null().to_numpy())
    marks = [bytes_mark(content)]
    if len(outside):
        files = [images[int(index)] for index in outside]
        marks.append(fingerprint_of(files, Path(os.path.commonpath([file.parent for file in files]))))
    mark = joined(*marks)
    if stamps and not len(outside):
        with contextlib.suppress(OSError), replacing(place) as file:
            file.write(mark.encode())
    return mark


def bytes_mark(content: pa.ChunkedArray) -> str:
    """A digest of the lengths and the content of all values, however they are cut into chunks."""
    lengths, values = hashlib.sha256(), hashlib.sha256()
    for chunk in content.chunks:
        whole = pc.fill_null(chunk, b"").cast(pa.large_binary())
        if not len(whole):
            continue
        _, offsets, data = whole.buffers()
        ends = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
        lengths.update(np.diff(ends).tobytes())
        if data is not None:
            values.update(memoryview(data)[ends[0] : ends[-1]])
    return joined(lengths.hexdigest(), values.hexdigest())


def labels_mark(labels: LabelColumn) -> str:
    """A digest of labels and of the names of classes."""
    return joined(hashlib.sha256(labels.values.tobytes()).hexdigest(), *map(repr, labels.names or ()))


def labels_of(table: pa.Table, name: str, origin: str) -> LabelColumn:
    """The labels of a split; words are numbered in alphabetical order.

    Raises:
        ValueError: there is no such column, or a label is missing or no class.
    """
    if name not in table.column_names:
        raise ValueError(
            f"'{origin}' has no column '{name}', which the training labels are in; it has: "
            f"{', '.join(table.column_names)}"
        )
    values = table.column(name)
    names = named_classes(table.schema, name, origin)
    if (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)) and not values.null_count:
        words = np.array(values.to_pylist())
        known, numbers = np.unique(words, return_inverse=True)
        return LabelColumn(numbers.astype(np.int64), tuple(map(str, known)), name, ((origin, len(words)),))
    return LabelColumn(whole_numbers(values, origin, name), names, name, ((origin, len(values)),))


def check_names(labels: LabelColumn, files: Sequence[Path]) -> None:
    """Make sure that Parquet files name the classes as the table does: the library takes those of one file for all.

    Raises:
        ValueError: one names others, or in another order.
    """
    for file in files:
        if file.suffix != ".parquet" or labels.names is None:
            continue
        names = named_classes(pq.read_schema(file), labels.column, file)
        if names and names != labels.names:
            raise ValueError(
                f"'{file}' names other classes in column '{labels.column}' than the other files, or in another order: "
                f"write all files from one data set"
            )


def label_of(config: DatasetConfig, found: Opened) -> str:
    """The name in results: what the description says, else that of the repository or the folder."""
    if not config.place:
        return name_of(Path(found.origin))
    described = described_name(found.folder) if found.folder else ""
    return described or known_name(config.place.rpartition("/")[2])


def published(found: Opened) -> dict[str, str]:
    """The commit and the licence, as far as they are known."""
    licence = readme_head(found.folder).get("license") if found.folder else None
    licence = ", ".join(map(str, licence)) if isinstance(licence, list) else licence
    known = {"revision": found.commit, "licence": str(licence or "")}
    return {name: value for name, value in known.items() if value}
