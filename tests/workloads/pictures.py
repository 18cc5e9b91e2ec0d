"""Small images and data sets of them, for tests of how they are read."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(seed: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def content(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def table(
    images: Sequence[Any] | None = None,
    labels: Any = None,
    names: Sequence[str] | None = None,
    image: str = "image",
    label: str = "label",
) -> pa.Table:
    """Six images of two classes unless given; images are bytes, paths or None."""
    images = [content(picture(i)) for i in range(6)] if images is None else images
    labels = [i % 2 for i in range(len(images))] if labels is None else labels
    rows = [
        each if isinstance(each, dict) or each is None else {"bytes": each, "path": f"{i}.png"}
        for i, each in enumerate(images)
    ]
    made = pa.table({image: pa.array(rows, STRUCT), label: labels})
    if names is None:
        return made
    described = {"info": {"features": {label: {"names": list(names), "_type": "ClassLabel"}}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(described)})


def write(path: Path, what: pa.Table | bytes | Image.Image) -> Path:
    """A file, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(what, bytes):
        path.write_bytes(what)
    elif isinstance(what, Image.Image):
        what.save(path)
    else:
        pq.write_table(what, path)
    return path


def write_folder(root: Path, parts: Sequence[str] = ("train", "test"), count: int = 2, suffix: str = ".png") -> Path:
    """An image folder of the classes ant and bee."""
    for part in parts:
        for name in ("ant", "bee"):
            for i in range(count):
                write(root / part / name / f"{i}{suffix}", picture(i))
    return root
