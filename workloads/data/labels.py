"""Labels of a Parquet column as class numbers, and classes of the test images matched with those of training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one split.

    Attributes:
        values: (N,) as they stand in the files.
        names: of the classes 0, 1, ..., where the files name them.
        column: its name.
        files: each with the number of its rows; also another name of what holds them, for messages.
    """

    values: Labels
    names: tuple[str, ...] | None
    column: str
    files: tuple[tuple[Path | str, int], ...]

    def place(self, index: int) -> str:
        """Where the label of an image stands, for messages."""
        for file, rows in self.files:
            if index < rows:
                return place_of(file, index, self.column)
            index -= rows
        raise IndexError(index)

    @property
    def whole(self) -> str:
        """All of it, for messages."""
        return f"column '{self.column}' of '{self.files[0][0]}'"


def place_of(file: Path | str, row: int, column: str) -> str:
    """One value of a Parquet file, for messages; rows count from 0."""
    return f"row {row} of column '{column}' in '{file}'"


def whole_numbers(values: pa.ChunkedArray, file: Path | str, column: str) -> Labels:
    """(N,) the labels of one file.

    Raises:
        ValueError: they are words, lists or fractions, or one is missing; the message names file, row and column.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type

    def refuse(row: int, what: str) -> NoReturn:
        raise ValueError(f"{place_of(file, row, column)} {what}")

    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy())[0])
        refuse(row, f"has no label ({values.null_count} in all): give it one, or leave the row out")
    if not len(values):
        return np.zeros(0, np.int64)
    if not numeric:
        shown = str(values[0].as_py())
        refuse(
            0,
            f"is {shown[:40]!r}, of type {kind}: labels are whole numbers from 0, one a class "
            f"(`class_encode_column('{column}')` of `datasets` makes them of words)",
        )
    numbers = values.to_numpy()
    if pa.types.is_floating(kind):
        numbers = numbers.astype(np.float64)
        wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.round(numbers))))
        if len(wrong):
            refuse(int(wrong[0]), f"is {numbers[wrong[0]]:g}, which is no class: labels are whole numbers from 0")
    low, high = numbers.min(), numbers.max()
    if low < 0:
        hidden = ", as the Hub marks images whose label is kept back: choose another split" if low == -1 else ""
        refuse(int(numbers.argmin()), f"is {low:g}, which is no class{hidden or ': labels are whole numbers from 0'}")
    if high >= 2**31:
        refuse(int(numbers.argmax()), f"is {high:g}: labels are whole numbers from 0, without gaps")
    labels: Labels = numbers.astype(np.int64)
    return labels


def named_classes(schema: pa.Schema, column: str, file: Path | str) -> tuple[str, ...] | None:
    """The names of the classes as the Hub keeps them beside a column; None where the file has none.

    Raises:
        ValueError: two classes have the same name.
    """
    described: Any = None
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))
    except ValueError:
        return None
    for key in ("info", "features", column, "names"):
        described = described.get(key) if isinstance(described, dict) else None
    if not isinstance(described, list) or not described:
        return None
    names = tuple(map(str, described))
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"column '{column}' of '{file}' has two classes named '{twice[0]}'")
    return names


def matched(train: LabelColumn, test: LabelColumn | None) -> tuple[tuple[str, ...], Labels, list[str]]:
    """The classes, the test labels as numbers of them, and sentences on what is unusual.

    Test labels are matched by the names of their classes where both splits have names.

    Raises:
        ValueError: a label has no class, a class of the test images has no training image, or training labels without
            names have gaps.
    """
    notes = []
    counts = _counted(train)
    if train.names is None:
        missing = np.flatnonzero(counts == 0)
        if len(missing):
            raise ValueError(
                f"labels in {train.whole} go from {train.values.min()} to {train.values.max()}, but "
                f"there are no images of {_listed(missing)}: number the classes from 0 "
                f"without gaps, or name them in the file (`ClassLabel` of `datasets`)"
            )
    classes = train.names or tuple(str(number) for number in range(len(counts)))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        notes.append(f"Classes without a training image: {len(empty)} of {len(classes)} ({_listed(empty)}).")
    if test is None:
        return classes, np.zeros(0, np.int64), notes
    _counted(test)
    numbers = test.values
    if test.names and train.names and test.names != train.names:
        index = {name: number for number, name in enumerate(train.names)}
        numbers = np.array([index.get(name, -1) for name in test.names], np.int64)[test.values]
    elif bool(test.names) != bool(train.names):
        without = (test if train.names else train).whole
        notes.append(f"{without} names no classes: its labels are taken to mean those of the other split.")
    known = np.append(counts > 0, False)  # the last entry is that of -1, a name unknown to training
    unlearnt = np.flatnonzero(~known[np.where(numbers < len(counts), numbers, -1)])
    if len(unlearnt):
        first = int(unlearnt[0])
        value = int(test.values[first])
        name = test.names[value] if test.names else (classes[value] if value < len(classes) else str(value))
        raise ValueError(
            f"{test.place(first)} is class '{name}', of which there is no training image ({len(unlearnt)} in all): "
            f"put images of it there, or leave these rows out"
        )
    return classes, numbers, notes


def _counted(labels: LabelColumn) -> Labels:
    """(classes,) images of each class; ValueError where a label is beyond the names."""
    if labels.names and len(labels.values) and labels.values.max() >= len(labels.names):
        index = int(labels.values.argmax())
        raise ValueError(
            f"{labels.place(index)} is {labels.values[index]}, but the file names {len(labels.names)} classes, 0 to "
            f"{len(labels.names) - 1}"
        )
    if not labels.names and labels.values.max() > 100 * len(labels.values):
        index = int(labels.values.argmax())
        raise ValueError(
            f"{labels.place(index)} is {labels.values[index]}: labels are whole numbers from 0, without gaps"
        )
    return np.bincount(labels.values, minlength=len(labels.names or ()))


def _listed(values: Sequence[Any] | Labels) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown}, ..."
