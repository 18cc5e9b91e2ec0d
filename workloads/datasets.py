"""Data sets: uint8 images with labels, in memory (one copy a node) or streamed from a folder."""

import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from workloads.augmentation import normalise
from workloads.config import IMAGENET_MEAN, IMAGENET_STD, DatasetConfig
from workloads.registry import lookup

PARTS = ("train", "test")
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


class Samples:
    """Labelled images in memory, decoded when they are first asked for.

    Args:
        labels: (N,) int64.
        shape: (C, H, W) of every image.
        images: (N, C, H, W) uint8, or a function that returns them.
    """

    def __init__(self, labels: Tensor, shape: tuple[int, int, int], images: Tensor | Callable[[], Tensor]):
        self.labels = labels
        self.shape = shape
        self._images = images

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8."""
        return self._images if isinstance(self._images, Tensor) else self._images()

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each vector of sample numbers, uint8 images (B, C, H, W) and labels (B,)."""
        for chosen in indices:
            yield self.images[chosen], self.labels[chosen]


class StreamedSamples(Samples):
    """Labelled image files, decoded by loader processes while the batches are consumed.

    Args:
        labels: (N,) int64.
        shape: (C, H, W) that every image is brought to.
        files: N paths.
        workers: loader processes; 0 decodes in the calling one.
    """

    def __init__(self, labels: Tensor, shape: tuple[int, int, int], files: Sequence[Path], workers: int = 2):
        super().__init__(labels, shape, lambda: torch.stack([decode(file, shape) for file in files]))
        self.files = files
        self.workers = workers

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return decode(self.files[index], self.shape), self.labels[index]

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        order = [chosen.tolist() for chosen in indices]
        yield from torch.utils.data.DataLoader(self, batch_sampler=order, num_workers=self.workers)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Dataset:
    """A training and a test part with the same classes.

    Attributes:
        classes: names of the labels 0, 1, ….
        fingerprint: changes when the files do; enters the keys of results.
        mean, std: a channel, of pixels in [0, 1]; set by `load`.
        train_pool, test_pool: numbers of the samples in use; set by `load`.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    train_pool: Tensor = torch.empty(0, dtype=torch.long)
    test_pool: Tensor = torch.empty(0, dtype=torch.long)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    def batches(
        self, part: str, batch_size: int, device: torch.device | str = "cpu", indices: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised float32 images and their labels, in order; all of `part` unless `indices` names some."""
        samples, pool = (self.train, self.train_pool) if part == "train" else (self.test, self.test_pool)
        chosen = pool if indices is None else indices
        for images, labels in samples.batches(chosen.split(batch_size)):
            yield normalise(images.to(device), self.mean, self.std), labels.to(device)


def in_memory(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: Sequence[str], fingerprint: str
) -> Dataset:
    """A data set of (images (N, C, H, W) uint8, labels (N,) int64) pairs."""
    parts = [Samples(labels, (*images.shape[1:],), images) for images, labels in (train, test)]  # type: ignore[arg-type]
    return Dataset(*parts, classes=tuple(classes), fingerprint=fingerprint)


def resize(images: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) uint8 to (N, C, size, size), bilinear with antialiasing; unchanged where size is null."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).round().to(torch.uint8)


def decode(file: Path | bytes, shape: tuple[int, int, int]) -> Tensor:
    """A (C, H, W) uint8 image: the shorter side resized to fit, then the centre."""
    channels, height, width = shape
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        image = opened.convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        factor = max(width / image.width, height / image.height)
        resized = max(width, round(image.width * factor)), max(height, round(image.height * factor))
        image = image.resize(resized, Image.Resampling.BILINEAR)
        left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(image).reshape(height, width, channels)).permute(2, 0, 1)


def cache_folder() -> Path:
    """Where decoded images lie: `METAPRUNE_CACHE`, or `metaprune` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaprune"
    return Path(os.environ.get("METAPRUNE_CACHE") or default)


def memory_mapped(name: str, make: Callable[[], Tensor]) -> Tensor:
    """The tensor that `make` returns, kept in a file that all processes of a node map into memory."""
    path = cache_folder() / "images" / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, make().numpy())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def fingerprint_of(files: Sequence[Path], root: Path) -> str:
    """A digest of the files' names and sizes, so that a moved folder keeps its results."""
    listing = [(str(file.relative_to(root)), file.stat().st_size) for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def existing_root(config: DatasetConfig) -> Path:
    """The folder `dataset.root`; ValueError where it is not given, FileNotFoundError where it is no folder."""
    if config.root is None:
        raise ValueError(f"dataset '{config.name}' needs dataset.root, the folder that holds train and test")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root '{root}' is not a folder: give the one that holds train and test")
    return root


def digits(config: DatasetConfig) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey; every fifth is a test image."""
    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    images = resize(images, config.size)
    is_test = torch.arange(len(labels)) % 5 == 4
    return in_memory(
        (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test]), "0123456789", "digits"
    )


def _torchvision(config: DatasetConfig, source: Callable[..., Any], label: str) -> Dataset:
    root = Path(config.root or "data").expanduser()
    pairs = []
    for part in PARTS:
        try:
            loaded = source(root, train=part == "train", download=False)
        except RuntimeError:
            try:
                loaded = source(root, train=part == "train", download=True)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(
                    f"dataset '{config.name}' is not under dataset.root '{root}' and cannot be downloaded ({error})"
                ) from error
        images = torch.as_tensor(loaded.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        pairs.append((resize(images.contiguous(), config.size), torch.as_tensor(loaded.targets)))
    return in_memory(pairs[0], pairs[1], loaded.classes, label)


def cifar10(config: DatasetConfig) -> Dataset:
    """CIFAR-10, 60,000 colour images of 32×32 (Krizhevsky 2009), downloaded where there is internet."""
    return _torchvision(config, torchvision.datasets.CIFAR10, "cifar10")


def cifar100(config: DatasetConfig) -> Dataset:
    """CIFAR-100, the same with 100 classes."""
    return _torchvision(config, torchvision.datasets.CIFAR100, "cifar100")


def fashion_mnist(config: DatasetConfig) -> Dataset:
    """Fashion-MNIST, 70,000 grey images of 28×28 (Xiao et al. 2017); root may hold the four IDX .gz files."""
    root = Path(config.root or "data").expanduser()
    if not (root / "train-images-idx3-ubyte.gz").exists():
        return _torchvision(config, torchvision.datasets.FashionMNIST, "fashion-mnist")

    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(root / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    pairs = []
    for prefix in ("train", "t10k"):
        images = torch.from_numpy(read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy())
        labels = torch.from_numpy(read(f"{prefix}-labels-idx1-ubyte.gz", 8).astype(np.int64))
        pairs.append((resize(images, config.size), labels))
    return in_memory(pairs[0], pairs[1], torchvision.datasets.FashionMNIST.classes, "fashion-mnist")


def parquet(config: DatasetConfig) -> Dataset:
    """Images in Parquet as Hugging Face lays them out: train.parquet and test.parquet, or shards in train/ and test/."""
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
                images += [decode(row["bytes"], shape) for row in batch.column(0).to_pylist()]
        return torch.stack(images)

    samples = []
    for part in PARTS:
        labels = np.concatenate([pq.read_table(f, columns=[label_column])[label_column].to_numpy() for f in files[part]])
        cached = functools.partial(memory_mapped, f"{mark}-{part}-{height}x{width}", functools.partial(decoded, part))
        samples.append(Samples(torch.from_numpy(labels.astype(np.int64)), shape, cached))
    count = int(max(part.labels.max() for part in samples)) + 1
    names = _class_names(schema, label_column) or tuple(str(label) for label in range(count))
    return Dataset(*samples, classes=names, fingerprint=mark)


def _parquet_files(root: Path, part: str) -> list[Path]:
    files = sorted((root / part).glob("*.parquet")) or sorted(root.glob(f"{part}*.parquet"))
    if not files:
        raise FileNotFoundError(f"dataset.root '{root}' holds neither {part}.parquet nor {part}/*.parquet")
    return files


def _image_column(schema: Any, file: Path) -> str:
    for field in schema:
        if field.type.num_fields and field.type.get_field_index("bytes") >= 0:
            return field.name
    raise ValueError(f"'{file}' has no image column (a struct with the field 'bytes'); it has: {', '.join(schema.names)}")


def _label_column(schema: Any, file: Path) -> str:
    for name in ("label", "labels", "fine_label"):
        if name in schema.names:
            return name
    raise ValueError(f"'{file}' has no column 'label'; it has: {', '.join(schema.names)}")


def _class_names(schema: Any, label_column: str) -> tuple[str, ...] | None:
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = described.get("info", {}).get("features", {}).get(label_column, {})
    return tuple(feature["names"]) if feature.get("names") else None


def image_folder(config: DatasetConfig) -> Dataset:
    """Folders train/CLASS/*.jpg and test/CLASS/*.jpg; with `stream: true` decoded batch by batch."""
    root = existing_root(config)
    classes = sorted(folder.name for folder in (root / "train").glob("*/"))
    if not classes:
        raise FileNotFoundError(f"dataset.root '{root}' has no folders train/CLASS with images")
    files = {
        part: [f for name in classes for f in sorted((root / part / name).rglob("*")) if f.suffix.lower() in IMAGE_FILES]
        for part in PARTS
    }
    for part in PARTS:
        if not files[part]:
            raise FileNotFoundError(f"dataset.root '{root}' has no images in {part}/CLASS ({', '.join(IMAGE_FILES)})")
    mark = fingerprint_of([*files["train"], *files["test"]], root)
    with Image.open(files["train"][0]) as image:
        channels = 1 if image.mode == "L" else 3
        height, width = (config.size, config.size) if config.size else (image.height, image.width)
    shape = (channels, height, width)
    numbers = {name: number for number, name in enumerate(classes)}
    samples: list[Samples] = []
    for part in PARTS:
        labels = torch.tensor([numbers[f.relative_to(root / part).parts[0]] for f in files[part]])
        streamed = StreamedSamples(labels, shape, files[part])
        if config.stream:
            samples.append(streamed)
        else:
            cached = functools.partial(memory_mapped, f"{mark}-{part}-{height}x{width}", lambda s=streamed: s.images)
            samples.append(Samples(labels, shape, cached))
    return Dataset(*samples, classes=tuple(classes), fingerprint=mark)


DATASETS: dict[str, Callable[[DatasetConfig], Dataset]] = {
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
    dataset = lookup(DATASETS, config.name, "dataset")(config)
    channels = dataset.shape[0]
    grey = channels == 1
    mean = config.mean or ((sum(IMAGENET_MEAN) / 3,) if grey else IMAGENET_MEAN)
    std = config.std or ((sum(IMAGENET_STD) / 3,) if grey else IMAGENET_STD)
    for setting, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(f"dataset.{setting} has {len(values)} values; the images have {channels} channels")
    pools = []
    for part, wanted in (("train", config.train_samples), ("test", config.test_samples)):
        count = len(getattr(dataset, part))
        if wanted is not None and wanted > count:
            raise ValueError(f"dataset.{part}_samples is {wanted}, but '{config.name}' has {count} {part} images")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        pools.append(torch.arange(count) if wanted is None else order[:wanted].sort().values)
    return Dataset(
        dataset.train, dataset.test, dataset.classes, dataset.fingerprint, mean, std, pools[0], pools[1]
    )
