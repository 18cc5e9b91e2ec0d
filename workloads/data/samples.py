"""Labelled images: in memory (one copy a node) or streamed from files, as normalised batches."""

import functools
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.data.augmentation import normalise
from workloads.data.decoding import Encoded, decode

RESIDENT_BYTES = 2**30  # of images that are kept on a GPU
BATCHES_AHEAD = 2  # of each loader process, as PyTorch has it
Size = int | Sequence[int]


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
        self._resident: tuple[torch.device, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8."""
        return self._images if isinstance(self._images, Tensor) else self._images()

    def nearest(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """All images and labels, on a GPU if they fit into `RESIDENT_BYTES`, where they stay for the next call."""
        if device.type == "cpu" or self.images.nbytes > RESIDENT_BYTES:
            return self.images, self.labels
        if self._resident is None or self._resident[0] != device:
            self._resident = device, self.images.to(device), self.labels.to(device)
        return self._resident[1:]

    def image(self, index: int) -> Tensor:
        """(C, H, W) uint8: one image."""
        return self.images[index]

    def batches(
        self, order: Tensor, size: Size, device: torch.device, each: "EachImage | None" = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Uint8 images (B, C, H, W) and labels (B,) of the samples with these numbers, up to `size` at a time.

        Args:
            size: of all batches, or that of each.
            each: what is done to the image at each place of `order`, in loader processes where there are threads.
        """
        if each is not None:
            threads = torch.get_num_threads()
            yield from loaded(self, order, size, device, threads if threads > 1 else 0, each)
            return
        images, labels = self.nearest(device)
        for chosen in order.to(images.device).split(size):
            yield images[chosen].to(device), labels[chosen].to(device)


def shared_memory() -> int:
    """Free bytes of the memory through which loader processes hand over their batches; containers often have little."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:  # not Linux: no such place
        return sys.maxsize


class StreamedSamples(Samples):
    """Labelled encoded images, decoded by loader processes while the batches are consumed.

    Args:
        labels: (N,) int64.
        shape: (C, H, W) that every image is brought to.
        encoded: N images as they are encoded, each fetched from its file when it is asked for.
        resize: shorter side that they are resized to before the centre is cut out; None is that of `shape`.
        workers: loader processes; 0 decodes in the calling one, None takes one a thread that PyTorch has, at least two.
            There are fewer where shared memory has no room for their batches.
        background: black or white, which transparent images are laid on.
        place: where the image of a number is, for messages; None is the path of its file.
    """

    def __init__(
        self,
        labels: Tensor,
        shape: tuple[int, int, int],
        encoded: Sequence[Encoded],
        resize: int | None = None,
        workers: int | None = None,
        background: str | None = None,
        place: Callable[[int], str] | None = None,
    ):
        super().__init__(labels, shape, self.decoded)
        self.encoded = encoded
        self.place = place
        self.resize = resize
        self.workers = workers
        self.background = background

    def decoded(self) -> Tensor:
        """(N, C, H, W) uint8: all images, decoded once more."""
        check_room(len(self.encoded), self.shape)
        images = torch.empty(len(self.encoded), *self.shape, dtype=torch.uint8)
        for number in range(len(self.encoded)):
            images[number] = self.image(number)
        return images

    def image(self, index: int) -> Tensor:
        """(C, H, W) uint8: one image, decoded."""
        place = self.place and self.place(index)
        return decode(self.encoded[index], self.shape, self.resize, background=self.background, place=place)

    def batches(
        self, order: Tensor, size: Size, device: torch.device, each: "EachImage | None" = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        workers = max(2, torch.get_num_threads()) if self.workers is None else self.workers
        yield from loaded(self, order, size, device, workers, each)


EachImage = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Ordered(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Samples in an order, each image changed by `each`, as loader processes fetch them."""

    samples: Samples
    order: Tensor
    each: EachImage | None

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        number = int(self.order[place])
        image = self.samples.image(number)
        return image if self.each is None else self.each(place, image), self.samples.labels[number]


def loaded(
    samples: Samples, order: Tensor, size: Size, device: torch.device, workers: int, each: EachImage | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as of `Samples.batches`, made by loader processes while they are consumed; with 0, in this one."""
    places = [part.tolist() for part in torch.arange(len(order)).split(size)]
    largest = max(map(len, places), default=1)
    workers = min(workers, shared_memory() // (2 * BATCHES_AHEAD * largest * math.prod(samples.shape)))
    loader = torch.utils.data.DataLoader(
        Ordered(samples, order, each),
        batch_sampler=places,
        num_workers=workers,
        prefetch_factor=BATCHES_AHEAD if workers else None,
        pin_memory=device.type == "cuda",
    )
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


@dataclass(frozen=True)
class Source:
    """What a data set's function returns.

    Attributes:
        train, test: the samples.
        classes: names of the labels 0, 1, ….
        fingerprint: changes when the files do; enters the keys of results.
        notes: sentences on what was left out or read otherwise than it stands, for whoever plans a run.
        label: name of the data set in results; empty is the name of its function.
        published: its revision and licence, as far as they are known.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    label: str = field(default="", kw_only=True)
    published: Mapping[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Dataset(Source):
    """A source with what the settings say about it.

    Attributes:
        mean, std: a channel, of pixels in [0, 1].
        train_pool, test_pool: numbers of the samples in use.
        measured_on: what of it is measured on: a split, or a share of another that is held out.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_pool: Tensor
    test_pool: Tensor
    measured_on: str = field(default="test", kw_only=True)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    def with_test_samples(self, count: int | None) -> "Dataset":
        """The same with at most this many of its test samples, the first after a fixed shuffle; None is all."""
        return (
            self
            if count is None
            else replace(self, test_pool=self.test_pool[first_shuffled(len(self.test_pool), count)])
        )

    def batches(
        self,
        part: str,
        batch_size: Size,
        device: torch.device | str = "cpu",
        indices: Tensor | None = None,
        augmented: Callable[[Tensor], Tensor] = lambda images: images,
        each: EachImage | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised float32 images and their labels, in order; all of `part` unless `indices` names some.

        Args:
            batch_size: of all batches, or that of each.
            augmented: what is done to uint8 images (B, C, H, W) before.
            each: what is done before that to the uint8 image (C, H, W) at each place.
        """
        samples, pool = (self.train, self.train_pool) if part == "train" else (self.test, self.test_pool)
        chosen = pool if indices is None else indices
        for images, labels in samples.batches(chosen, batch_size, torch.device(device), each):
            yield normalise(augmented(images), self.mean, self.std), labels


def first_shuffled(count: int, wanted: int) -> Tensor:
    """The first `wanted` of the numbers below `count` after a fixed shuffle, in ascending order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:wanted].sort().values


def in_memory(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: Sequence[str], fingerprint: str
) -> Source:
    """A source of two pairs of images (N, C, H, W) uint8 and labels (N,) int64.

    Raises:
        ValueError: they are not such.
    """
    for images, labels in (train, test):
        whole = images.dtype == torch.uint8 and labels.dtype == torch.int64
        if not whole or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"a data set needs uint8 images (N, C, H, W) and as many int64 labels, but has {images.dtype} "
                f"{tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
    parts = [Samples(labels, shape_of(images), images) for images, labels in (train, test)]
    return Source(parts[0], parts[1], tuple(classes), fingerprint)


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of (N, C, H, W)."""
    _, channels, height, width = images.shape
    return channels, height, width


def check_room(count: int, shape: tuple[int, int, int]) -> None:
    """Make sure that so many uint8 images (C, H, W) fit the memory of this machine.

    Raises:
        ValueError: they do not.
    """
    needed, there = count * math.prod(shape), psutil.virtual_memory().total
    if needed > there:
        raise ValueError(
            f"{count:,} images of {' × '.join(map(str, shape))} values take {needed / 2**30:,.0f} GiB, but this "
            f"machine has {there / 2**30:,.0f} GiB of memory: give a smaller dataset.size, or fewer images"
        )


def resize(images: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) uint8 to (N, C, size, size), bilinear with antialiasing; unchanged where size is null.

    Raises:
        ValueError: the machine has not so much memory.
    """
    if size is None or images.shape[-2:] == (size, size):
        return images
    check_room(len(images), (images.shape[1], size, size))
    scale = functools.partial(F.interpolate, size=(size, size), mode="bilinear", antialias=True)
    return torch.cat([scale(part.float()).round().to(torch.uint8) for part in images.split(1000)])
