"""Data sets that are known by name: digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workloads.config import DatasetConfig
from workloads.data.cache import memory_mapped
from workloads.data.idx import NAMES, idx_folder, read_part
from workloads.data.roots import expanded
from workloads.data.samples import Source, in_memory, resize

PARTS = ("train", "test")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# SHA-256 of the images and labels of Fashion-MNIST as published, by which results of version 0.1 know it.
FASHION_MNIST = "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f"

Part = tuple[Tensor, Tensor]


def digits(config: DatasetConfig) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey; every fifth is a test image."""
    from sklearn.datasets import load_digits  # here, as it takes a second to load

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    images = resize(images, config.size)
    is_test = torch.arange(len(labels)) % 5 == 4
    return in_memory((images[~is_test], labels[~is_test]), (images[is_test], labels[is_test]), "0123456789", "digits")


def _mapped(label: str, size: int | None, read: Callable[[str], Part], classes: Sequence[str]) -> Source:
    """A source whose parts `read` gives as images and labels, kept as one memory-mapped copy a node.

    Args:
        label: of this content and no other; part of the files' names, and the fingerprint.
    """
    read = functools.cache(read)
    pairs = []
    for part in PARTS:
        images = memory_mapped(f"{label}-{part}-{size}", lambda part=part: resize(read(part)[0], size))  # type: ignore[misc]
        labels = memory_mapped(f"{label}-{part}-labels", lambda part=part: read(part)[1])  # type: ignore[misc]
        pairs.append((images, labels))
    return in_memory(pairs[0], pairs[1], classes, label)


def _torchvision(config: DatasetConfig, name: str, part: str) -> Any:
    """One part of a data set as torchvision has it, from below `dataset.root` or downloaded there."""
    import torchvision  # here, as it takes seconds to load and images are mostly in the cache

    root = expanded(config.root or "data")
    kind = getattr(torchvision.datasets, name)
    made = [root / name / "raw", root / name, *([] if root.exists() else [root])]
    with contextlib.suppress(RuntimeError):
        return kind(root, train=part == "train", download=False)
    try:
        return kind(root, train=part == "train", download=True)
    except (OSError, RuntimeError) as error:
        for folder in made:
            with contextlib.suppress(OSError):  # it is left where it is not empty
                folder.rmdir()
        raise FileNotFoundError(
            f"dataset '{config.name}' is not under dataset.root '{root}' and cannot be downloaded "
            f"({' '.join(str(error).split())}): give the folder that holds its files"
        ) from error


def _cifar(config: DatasetConfig, name: str, label: str, classes: Sequence[str]) -> Source:
    """CIFAR; torchvision compares the files with published checksums, so its name tells the content."""

    def read(part: str) -> Part:
        loaded = _torchvision(config, name, part)
        return torch.as_tensor(loaded.data).permute(0, 3, 1, 2).contiguous(), torch.as_tensor(loaded.targets)

    return _mapped(label, config.size, read, classes)


def cifar10(config: DatasetConfig) -> Source:
    """CIFAR-10, 60,000 colour images of 32×32 (Krizhevsky 2009), downloaded where there is internet."""
    return _cifar(config, "CIFAR10", "cifar10", CIFAR10_CLASSES)


def cifar100(config: DatasetConfig) -> Source:
    """CIFAR-100, the same with 100 classes."""
    return _cifar(config, "CIFAR100", "cifar100", [str(number) for number in range(100)])


def _idx(config: DatasetConfig, name: str, classes: Sequence[str], published: dict[str, str]) -> Source:
    """A set in the form of MNIST, known by its content."""
    root = expanded(config.root or "data")
    folder = idx_folder(root, name)
    if folder is None:
        for part in PARTS:
            _torchvision(config, name, part)
        folder = idx_folder(root, name)
        assert folder is not None
    arrays = {part: read_part(folder, part) for part in NAMES}
    digest = hashlib.sha256()
    for pair in arrays.values():
        for array in pair:
            digest.update(array.tobytes())
    mark = digest.hexdigest()
    label = published.get(mark, f"{config.name}-{mark[:16]}")

    def read(part: str) -> Part:
        images, labels = arrays[part]
        return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))

    source = _mapped(label, config.size, read, classes)
    if not published or mark in published:
        return source
    return replace(source, notes=(f"The files in '{folder}' are not {config.name} as it was published.",))


def fashion_mnist(config: DatasetConfig) -> Source:
    """Fashion-MNIST, 70,000 grey images of 28×28 (Xiao et al. 2017); root may hold the four IDX files."""
    return _idx(config, "FashionMNIST", FASHION_CLASSES, {FASHION_MNIST: "fashion-mnist"})


def mnist(config: DatasetConfig) -> Source:
    """MNIST, 70,000 grey handwritten digits of 28×28 (LeCun et al. 1998); root may hold the four IDX files."""
    return _idx(config, "MNIST", "0123456789", {})
