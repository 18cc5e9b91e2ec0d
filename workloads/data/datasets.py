"""Data sets by name: functions that find the files and read them."""

import functools
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from workloads.config import IMAGENET_MEAN, IMAGENET_STD, DatasetConfig
from workloads.data.samples import (
    Dataset,
    Samples,
    Source,
    StreamedSamples,
    decode,
    first_shuffled,
    in_memory,
    memory_mapped,
    resize,
)
from workloads.plugins import DATASET

PARTS = ("train", "test")
FINGERPRINTED_FILES, FINGERPRINTED_BYTES = 256, 1 << 29
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


def fingerprint_of(files: Sequence[Path], root: Path) -> str:
    """A digest of the files' names, sizes and contents, so that a moved folder keeps its results.

    Of more than `FINGERPRINTED_FILES` files only some are read, of large ones the beginning and the end.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(root)} {file.stat().st_size} ".encode())
    read = files[:: 1 + len(files) // FINGERPRINTED_FILES]
    part = FINGERPRINTED_BYTES // max(1, len(read))
    for file in read:
        with file.open("rb") as opened:
            total.update(opened.read(part))
            opened.seek(max(opened.tell(), file.stat().st_size - part))
            total.update(opened.read())
    return total.hexdigest()[:16]


def existing_root(config: DatasetConfig) -> Path:
    """The folder `dataset.root`; ValueError where it is not given, FileNotFoundError where it is no folder."""
    if config.root is None:
        raise ValueError(f"dataset '{config.name}' needs dataset.root, the folder that holds train and test")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root '{root}' is not a folder: give the one that holds train and test")
    return root


def digits(config: DatasetConfig) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey; every fifth is a test image."""
    from sklearn.datasets import load_digits  # here, as it takes a second to load

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    images = resize(images, config.size)
    is_test = torch.arange(len(labels)) % 5 == 4
    return in_memory((images[~is_test], labels[~is_test]), (images[is_test], labels[is_test]), "0123456789", "digits")


Part = tuple[Tensor, Tensor]


def _mapped(label: str, size: int | None, read: Callable[[str], Part], classes: Sequence[str]) -> Source:
    """A source whose parts `read` gives as images and labels, kept as one memory-mapped copy a node."""
    read = functools.cache(read)
    pairs = []
    for part in PARTS:
        images = memory_mapped(f"{label}-{part}-{size}", lambda part=part: resize(read(part)[0], size))  # type: ignore[misc]
        labels = memory_mapped(f"{label}-{part}-labels", lambda part=part: read(part)[1])  # type: ignore[misc]
        pairs.append((images, labels))
    return in_memory(pairs[0], pairs[1], classes, label)


def _torchvision(config: DatasetConfig, name: str, label: str, classes: Sequence[str]) -> Source:
    root = Path(config.root or "data").expanduser()

    def read(part: str) -> Part:
        import torchvision  # here, as it takes seconds to load and images are mostly in the cache

        kind = getattr(torchvision.datasets, name)
        try:
            loaded = kind(root, train=part == "train", download=False)
        except RuntimeError:
            try:
                loaded = kind(root, train=part == "train", download=True)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(
                    f"dataset '{config.name}' is not under dataset.root '{root}' and cannot be downloaded ({error})"
                ) from error
        images = torch.as_tensor(loaded.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return images.contiguous(), torch.as_tensor(loaded.targets)

    return _mapped(label, config.size, read, classes)


def cifar10(config: DatasetConfig) -> Source:
    """CIFAR-10, 60,000 colour images of 32×32 (Krizhevsky 2009), downloaded where there is internet."""
    return _torchvision(config, "CIFAR10", "cifar10", CIFAR10_CLASSES)


def cifar100(config: DatasetConfig) -> Source:
    """CIFAR-100, the same with 100 classes."""
    classes = [str(number) for number in range(100)]
    return _torchvision(config, "CIFAR100", "cifar100", classes)


def fashion_mnist(config: DatasetConfig) -> Source:
    """Fashion-MNIST, 70,000 grey images of 28×28 (Xiao et al. 2017); root may hold the four IDX .gz files."""
    root = Path(config.root or "data").expanduser()
    if not (root / "train-images-idx3-ubyte.gz").exists():
        return _torchvision(config, "FashionMNIST", "fashion-mnist", FASHION_CLASSES)

    def content(name: str, header: int) -> np.ndarray:
        with gzip.open(root / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    def read(part: str) -> Part:
        prefix = "train" if part == "train" else "t10k"
        images = content(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        labels = content(f"{prefix}-labels-idx1-ubyte.gz", 8).astype(np.int64)
        return torch.from_numpy(images.copy()), torch.from_numpy(labels)

    return _mapped("fashion-mnist", config.size, read, FASHION_CLASSES)


def parquet(config: DatasetConfig) -> Source:
    """Images in Parquet as Hugging Face lays them out: train.parquet and test.parquet, or shards in folders."""
    root = existing_root(config)
    files = {part: _parquet_files(root, part) for part in PARTS}
    mark = fingerprint_of([*files["train"], *files["test"]], root)
    schema = pq.read_schema(files["train"][0])
    image_column = _image_column(schema, files["train"][0])
    label_column = _label_column(schema, files["train"][0])
    first = next(pq.ParquetFile(files["train"][0]).iter_batches(1, columns=[image_column]))
    with Image.open(io.BytesIO(first.column(0)[0].as_py()["bytes"])) as image:
        channels = 1 if image.mode == "L" else 3
        height, width = (config.size, config.size) if config.size else (image.height, image.width)
    shape = (channels, height, width)

    def decoded(part: str) -> Tensor:
        images = []
        for file in files[part]:
            for batch in pq.ParquetFile(file).iter_batches(1024, columns=[image_column]):
                images += [decode(row["bytes"], shape, config.resize) for row in batch.column(0).to_pylist()]
        return torch.stack(images)

    samples = []
    for part in PARTS:
        labels = np.concatenate(
            [pq.read_table(f, columns=[label_column])[label_column].to_numpy() for f in files[part]]
        )
        cached = functools.partial(
            memory_mapped, f"{mark}-{part}-{cut(config, shape)}", functools.partial(decoded, part)
        )
        samples.append(Samples(torch.from_numpy(labels.astype(np.int64)), shape, cached))
    count = int(max(part.labels.max() for part in samples)) + 1
    names = _class_names(schema, label_column) or tuple(str(label) for label in range(count))
    return Source(samples[0], samples[1], classes=names, fingerprint=mark)


def cut(config: DatasetConfig, shape: tuple[int, int, int]) -> str:
    """Height and width of images and the side that they were resized to before, as in the name they are kept by."""
    _, height, width = shape
    return f"{height}x{width}" + (f"-of-{config.resize}" if config.resize else "")


def _parquet_files(root: Path, part: str) -> list[Path]:
    files = sorted((root / part).glob("*.parquet")) or sorted(root.glob(f"{part}*.parquet"))
    if not files:
        raise FileNotFoundError(f"dataset.root '{root}' holds neither {part}.parquet nor {part}/*.parquet")
    return files


def _image_column(schema: Any, file: Path) -> str:
    for field in schema:
        if field.type.num_fields and field.type.get_field_index("bytes") >= 0:
            return field.name
    raise ValueError(
        f"'{file}' has no image column (a struct with the field 'bytes'); it has: {', '.join(schema.names)}"
    )


def _label_column(schema: Any, file: Path) -> str:
    for name in ("label", "labels", "fine_label"):
        if name in schema.names:
            return name
    raise ValueError(f"'{file}' has no column 'label'; it has: {', '.join(schema.names)}")


def _class_names(schema: Any, label_column: str) -> tuple[str, ...] | None:
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = described.get("info", {}).get("features", {}).get(label_column, {})
    return tuple(feature["names"]) if feature.get("names") else None


def image_folder(config: DatasetConfig) -> Source:
    """Folders train/CLASS/*.jpg and test/CLASS/*.jpg; with `stream: true` decoded batch by batch."""
    root = existing_root(config)
    found = {part: _images_by_class(root / part) for part in PARTS}
    classes = list(found["train"])
    for part, images in found.items():
        if not any(images.values()):
            raise FileNotFoundError(f"dataset.root '{root}' has no images in {part}/CLASS ({', '.join(IMAGE_FILES)})")
    unknown = [name for name, images in found["test"].items() if images and name not in classes]
    empty = [name for name, images in found["train"].items() if not images]
    if empty or unknown:
        raise ValueError(
            f"dataset.root '{root}': class '{(empty + unknown)[0]}' has no image in train: remove its folder, or put "
            f"images there"
        )
    files = {part: [file for name in classes for file in images.get(name, ())] for part, images in found.items()}
    mark = fingerprint_of([*files["train"], *files["test"]], root)
    with Image.open(files["train"][0]) as image:
        channels = 1 if image.mode == "L" else 3
        height, width = (config.size, config.size) if config.size else (image.height, image.width)
    shape = (channels, height, width)
    numbers = {name: number for number, name in enumerate(classes)}
    samples: list[Samples] = []
    for part in PARTS:
        labels = torch.tensor([numbers[f.relative_to(root / part).parts[0]] for f in files[part]])
        streamed = StreamedSamples(labels, shape, files[part], config.resize)
        if config.stream:
            samples.append(streamed)
        else:
            cached = functools.partial(memory_mapped, f"{mark}-{part}-{cut(config, shape)}", streamed.decoded)
            samples.append(Samples(labels, shape, cached))
    return Source(samples[0], samples[1], classes=tuple(classes), fingerprint=mark)


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    """Image files by the name of their folder in `folder`; hidden folders are left out."""
    folders = sorted(path for path in folder.glob("*/") if not path.name.startswith("."))
    return {
        path.name: [file for file in sorted(path.rglob("*")) if file.suffix.lower() in IMAGE_FILES] for path in folders
    }


DATASETS: dict[str, Callable[[DatasetConfig], Source]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "parquet": parquet,
    "image-folder": image_folder,
}


@functools.lru_cache(maxsize=2)
def load(config: DatasetConfig) -> Dataset:
    """The data set, with normalisation and the requested share of its samples.

    Images are decoded when first used, not here.

    Raises:
        ValueError: an unknown name, missing settings, or too few samples.
        FileNotFoundError: files that are not where `dataset.root` says.
    """
    source: Source = DATASET.plugin(config.name)(config)
    if not isinstance(source, Source):
        raise ValueError(
            f"data set '{config.name}' gave {type(source).__name__}: its function has to return a Source, as "
            f"workloads.data.samples.in_memory(train, test, classes, fingerprint) makes it"
        )
    channels, *pixels = source.train.shape
    if config.size and pixels != [config.size, config.size]:
        raise ValueError(
            f"dataset.size is {config.size}, but '{config.name}' gives images of {pixels[0]}×{pixels[1]} pixels: its "
            f"function gets the setting as config.size and has to resize them, or leave the setting out"
        )
    grey = channels == 1
    mean = config.mean or ((sum(IMAGENET_MEAN) / 3,) if grey else IMAGENET_MEAN)
    std = config.std or ((sum(IMAGENET_STD) / 3,) if grey else IMAGENET_STD)
    for setting, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(f"dataset.{setting} has {len(values)} values; the images have {channels} channels")
    pools = []
    for part, wanted in (("train", config.train_samples), ("test", config.test_samples)):
        samples: Samples = getattr(source, part)
        count, labels = len(samples), samples.labels
        if not count or labels.min() < 0 or labels.max() >= len(source.classes):
            raise ValueError(
                f"the {count} {part} images of '{config.name}' need labels from 0 to {len(source.classes) - 1}, one a "
                f"class" + (f"; they go from {labels.min()} to {labels.max()}" if count else "")
            )
        if wanted is not None and wanted > count:
            raise ValueError(f"dataset.{part}_samples is {wanted}, but '{config.name}' has {count} {part} images")
        pools.append(torch.arange(count) if wanted is None else first_shuffled(count, wanted))
    return Dataset(source.train, source.test, source.classes, source.fingerprint, mean, std, pools[0], pools[1])
