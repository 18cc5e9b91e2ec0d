"""The files of MNIST and of the sets in its form: IDX, plain or compressed with gzip."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from workloads.data.decoding import content_problem

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MAGIC = {3: 0x0803, 1: 0x0801}  # of unsigned bytes with so many dimensions


def idx_folder(root: Path, torchvision_name: str) -> Path | None:
    """The folder that holds all four files: `root`, or where torchvision puts them below it; None if neither does."""
    for folder in (root, root / torchvision_name / "raw"):
        if all(idx_file(folder, name) for names in NAMES.values() for name in names):
            return folder
    return None


def idx_file(folder: Path, name: str) -> Path | None:
    """The file of this name, compressed or not; None where there is neither."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    return None


def read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W) and labels (N,) of train or test, uint8.

    Raises:
        ValueError: a file is damaged, or they do not belong together; the message names the file.
    """
    image_file, label_file = (idx_file(folder, name) for name in NAMES[part])
    if image_file is None or label_file is None:
        raise FileNotFoundError(f"'{folder}' does not hold {' and '.join(NAMES[part])}")
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(images) != len(labels):
        raise ValueError(f"'{image_file}' has {len(images)} images, but '{label_file}' {len(labels)} labels")
    if len(labels) and labels.max() > 9:
        row = int(np.flatnonzero(labels > 9)[0])
        raise ValueError(f"label {row} of '{label_file}' is {labels[row]}: there are ten classes, 0 to 9")
    return images, labels


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file; ValueError where it is none, or not whole."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        problem = content_problem(file) or f"is damaged or cut off ({error}): fetch it again"
        raise ValueError(f"'{file}' {problem}") from error
    header = np.frombuffer(content[: 4 + 4 * dimensions], ">u4") if len(content) >= 4 + 4 * dimensions else [0]
    if header[0] != MAGIC[dimensions]:
        raise ValueError(f"'{file}' {content_problem(file) or 'is no IDX file of bytes: fetch it again'}")
    shape = tuple(int(length) for length in header[1:])
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(pixels) != np.prod(shape):
        raise ValueError(f"'{file}' says {' × '.join(map(str, shape))} values and holds {len(pixels)}: fetch it again")
    return pixels.reshape(shape)
