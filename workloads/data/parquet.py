"""Images in Parquet files, as the Hub of Hugging Face lays them out."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from workloads.config import DatasetConfig
from workloads.data.cache import memory_mapped
from workloads.data.decoding import Encoded, ImageProblem, content_problem, decode
from workloads.data.fingerprints import fingerprint_of, joined
from workloads.data.labels import LabelColumn, matched, named_classes, place_of, whole_numbers
from workloads.data.naming import name_of
from workloads.data.roots import base_of, existing_root, expanded, is_hidden, measured_on, parts_of
from workloads.data.samples import Samples, Source, check_room
from workloads.data.shards import files_of, has_split, read_as, splits_in
from workloads.data.survey import Form, form_of, kept_survey
from workloads.messages import message

LABEL_COLUMNS = ("label", "labels", "fine_label")
ROWS = 256  # read at a time


@dataclass(frozen=True)
class Split:
    """The images of one split, in one file or in several.

    Attributes:
        part: what it is used for, train or test.
        files: each with the number of its rows.
        image_column, label_column: names of columns.
    """

    part: str
    files: tuple[tuple[Path, int], ...]
    image_column: str
    label_column: str

    @property
    def rows(self) -> int:
        """Number of images."""
        return sum(rows for _, rows in self.files)

    def images(self) -> Iterator[tuple[Encoded, str]]:
        """Every image as it is encoded, with its place for messages."""
        for file, _ in self.files:
            for row, value in enumerate(_values(file, self.image_column)):
                place = place_of(file, row, self.image_column)
                yield encoded(value, file, place), place

    def outside(self) -> list[Path]:
        """The image files that rows name instead of holding their bytes, each once.

        Raises:
            ValueError: one is not there, or two rows' paths lead to the same file.
        """
        named: dict[Path, str] = {}
        for file, rows in self.files:
            if not rows or not _may_name_files(file, self.image_column):
                continue
            for row, value in enumerate(_values(file, self.image_column)):
                place = place_of(file, row, self.image_column)
                found = encoded(value, file, place)
                if isinstance(found, Path):
                    path = value if isinstance(value, str) else value["path"]
                    if named.setdefault(found, path) != path:
                        raise ImageProblem(
                            f"{place} names '{path}', but the file found for it, '{found}', is that of "
                            f"'{named[found]}' too: lay the images beside '{file}' in the folders that it names"
                        )
        return list(named)

    def labels(self) -> LabelColumn:
        """The labels as they stand in the files, with the names of their classes."""
        values = [whole_numbers(_read(file, self.label_column), file, self.label_column) for file, _ in self.files]
        names: tuple[str, ...] | None = None
        for file, rows in self.files:
            found = named_classes(_opened(file).schema_arrow, self.label_column, file) if rows else None
            if found and names and found != names:
                raise ValueError(
                    f"'{file}' names other classes in column '{self.label_column}' than '{self.files[0][0]}', or in "
                    f"another order: write the files of a split from one data set"
                )
            names = names or found
        return LabelColumn(np.concatenate(values), names, self.label_column, self.files)

    def decoded(self, form: Form) -> Tensor:
        """(N, C, H, W) uint8: all images."""
        check_room(self.rows, form.shape)
        images = torch.empty(self.rows, *form.shape, dtype=torch.uint8)
        for number, (image, place) in enumerate(self.images()):
            images[number] = decode(image, form.shape, form.resize, background=form.background, place=place)
        return images


def parquet(config: DatasetConfig) -> Source:
    """Images in Parquet as Hugging Face lays them out: train.parquet and test.parquet, or shards in folders."""
    base = base_of(existing_root(config), config.train, has_split)
    splits: dict[str, Split] = {}
    notes: list[str] = []
    for part, name in parts_of(config).items():
        files = files_of(base, name, f"dataset.{part}")
        notes += [note] if (note := read_as(files, name)) else []
        splits[part] = _split(part, files, config, splits.get("train"))
    mark = fingerprint_of([file for split in splits.values() for file, _ in split.files], base)
    if outside := [file for split in splits.values() for file in split.outside()]:
        folder = Path(os.path.commonpath([file.parent for file in outside]))
        mark = joined(mark, fingerprint_of(outside, folder))
    labels = {part: split.labels() for part, split in splits.items()}
    classes, test_labels, told = matched(labels["train"], labels.get("test"))
    column = config.image_column or ""
    surveys = {
        part: kept_survey(joined(mark, part, column), split.images(), split.rows) for part, split in splits.items()
    }
    form = form_of(config, surveys, mark)
    numbers = {"train": labels["train"].values, "test": test_labels}
    samples = {
        part: Samples(
            torch.from_numpy(numbers[part]),
            form.shape,
            functools.partial(memory_mapped, form.cache_name(part, column), functools.partial(split.decoded, form)),
        )
        for part, split in splits.items()
    }
    unread = sorted({*splits_in(base)} - {*parts_of(config).values()})
    hidden = [file.name for file in sorted(base.glob("*.parquet")) if is_hidden(file.name)]
    if hidden:
        told.append(f"Hidden files are left out: {len(hidden)}, such as '{hidden[0]}'.")
    if unread:
        told.append(f"'{base}' also holds {', '.join(unread)}, not read.")
    return Source(
        samples["train"],
        samples.get("test", samples["train"]),
        classes,
        form.fingerprint,
        notes=(*notes, *told, *form.notes),
        label=name_of(base),
    )


def settled(config: DatasetConfig) -> DatasetConfig:
    """The settings with the split that is measured on: `test`, or `validation` and the like where there is none."""
    if config.test or config.held_out or config.root is None or not expanded(config.root).is_dir():
        return config
    base = base_of(expanded(config.root), config.train, has_split)
    measured = None if has_split(base, "test") else measured_on({*splits_in(base)} - {config.train})
    return config.model_copy(update={"test": measured}) if measured else config


def _split(part: str, files: list[Path], config: DatasetConfig, train: Split | None) -> Split:
    """The files of a split with their columns, which are those of the training images."""
    opened = [_opened(file) for file in files]
    counted = tuple((file, each.metadata.num_rows) for file, each in zip(files, opened, strict=True))
    filled = [(file, each.schema_arrow) for (file, rows), each in zip(counted, opened, strict=True) if rows]
    if not filled:
        raise ValueError(f"the split for {part} has no images: '{files[0]}' has 0 rows")
    file, schema = filled[0]
    if train:
        image, label = train.image_column, train.label_column
    else:
        image = image_column(schema, file, config.image_column)
        label = label_column(schema, file, config.label_column)
    for other, columns in filled:
        for column in (image, label):
            if column not in columns.names:
                known = train.files[0][0] if train else file
                raise ValueError(
                    f"'{other}' has no column '{column}', which '{known}' has; it has: {', '.join(columns.names)}: "
                    f"give the columns of all files the same names"
                )
        check_images(columns.field(image), other)
    return Split(part, counted, image, label)


def image_column(schema: pa.Schema, file: Path | str, wanted: str | None) -> str:
    """The column of images: the one asked for, or the only one that looks like it.

    Raises:
        ValueError: there is none, or there are several; the message names the columns.
    """
    if wanted is not None:
        return _asked_for(schema, file, wanted, "image_column")
    structs = [each.name for each in schema if pa.types.is_struct(each.type) and _has_field(each.type, "bytes")]
    found: list[str] = structs or [each.name for each in schema if _is_binary(each.type)]
    if len(found) > 1:
        raise ValueError(
            f"'{file}' has several image columns ({', '.join(found)}): name one of them as dataset.image_column"
        )
    if not found:
        lists = [each.name for each in schema if _is_list(each.type)]
        pixels = (
            f"; '{lists[0]}' holds lists of numbers, which are to be written as PNG or JPEG "
            f"(`cast_column('{lists[0]}', Image())` of `datasets`)"
            if lists
            else ""
        )
        raise ValueError(
            f"'{file}' has no image column (a struct with the field 'bytes'); it has: {', '.join(schema.names)}{pixels}"
        )
    return found[0]


def label_column(schema: pa.Schema, file: Path | str, wanted: str | None) -> str:
    """The column of labels: the one asked for, or the only one of a usual name; errors as for images."""
    if wanted is not None:
        return _asked_for(schema, file, wanted, "label_column")
    found = [name for name in LABEL_COLUMNS if name in schema.names]
    if len(found) > 1:
        raise ValueError(
            f"'{file}' has several label columns ({', '.join(found)}): name one of them as dataset.label_column"
        )
    if not found:
        raise ValueError(
            f"'{file}' has no column 'label'; it has: {', '.join(schema.names)}: name one of them as "
            f"dataset.label_column"
        )
    return found[0]


def _asked_for(schema: pa.Schema, file: Path | str, wanted: str, setting: str) -> str:
    if schema.names.count(wanted) != 1:
        state = "twice" if wanted in schema.names else "not"
        raise ValueError(
            f"dataset.{setting} is '{wanted}', which '{file}' has {state} among its columns: {', '.join(schema.names)}"
        )
    return wanted


def check_images(field: pa.Field, file: Path | str) -> None:
    struct = pa.types.is_struct(field.type) and (_has_field(field.type, "bytes") or _has_field(field.type, "path"))
    text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    if not (struct or text or _is_binary(field.type)):
        raise ValueError(
            f"column '{field.name}' of '{file}' holds {field.type}, not images: it has to be a struct with the field "
            f"'bytes', as `cast_column('{field.name}', Image())` of `datasets` writes it"
        )


def _has_field(kind: pa.DataType, name: str) -> bool:
    return bool(kind.get_field_index(name) >= 0)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def encoded(value: Any, file: Path, place: str) -> Encoded:
    """The image of a row: its bytes, or the file that it names.

    Raises:
        ValueError: there is none.
    """
    content, path = value, None
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
    elif isinstance(value, str):
        content, path = None, value
    if content is not None:
        return bytes(content)
    if not path:
        raise ImageProblem(f"{place} has no image: give it one, or leave the row out")
    found = beside(file, path)
    if found is None:
        raise ImageProblem(
            f"{place} holds no image but the path '{path}', which is not there, nor beside the Parquet file: put the "
            f"images beside it, or write them into it"
        )
    return found


@functools.lru_cache(maxsize=1 << 16)
def beside(file: Path, path: str) -> Path | None:
    """The file of an image that a Parquet file names: by its path as it is, or by the end of it beside the file."""
    whole = Path(path)
    if whole.is_absolute() and whole.is_file():
        return whole
    parts = [part for part in whole.parts if part != whole.anchor]
    for folder in (file.parent, file.parent.parent):
        for start in range(len(parts)):
            if (found := folder.joinpath(*parts[start:])).is_file():
                return found
    return None


def _opened(file: Path) -> pq.ParquetFile:
    """The file, its footer read; ValueError where it is no whole Parquet file."""
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        problem = content_problem(file) or f"is no Parquet file, or cut off ({message(error)}): fetch it again"
        raise ValueError(f"'{file}' {problem}") from error


def _values(file: Path, column: str) -> Iterator[Any]:
    """The values of a column, some at a time."""
    try:
        for batch in _opened(file).iter_batches(ROWS, columns=[column]):
            yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"column '{column}' of '{file}' is damaged ({message(error)}): fetch the file again"
        ) from error


def _read(file: Path, column: str) -> pa.ChunkedArray:
    try:
        return _opened(file).read([column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"column '{column}' of '{file}' is damaged ({message(error)}): fetch the file again"
        ) from error


def _may_name_files(file: Path, column: str) -> bool:
    """Whether some image may have no bytes of its own, by the statistics in the footer; true where they are silent."""
    metadata = _opened(file).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(metadata.num_columns)]
    bytes_ = [chunk for chunk in chunks if chunk.path_in_schema == f"{column}.bytes"]
    if not bytes_:
        return not _is_binary(_opened(file).schema_arrow.field(column).type)
    known = [chunk.statistics for chunk in bytes_]
    return any(each is None or not each.has_null_count or each.null_count for each in known)
