"""Data sets by name, with what the settings say about them."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from workloads.config import IMAGENET_MEAN, IMAGENET_STD, DatasetConfig
from workloads.data import archives, hugging_face, image_folder, parquet
from workloads.data.builtin import cifar10, cifar100, digits, fashion_mnist, mnist
from workloads.data.fingerprints import fingerprint_of
from workloads.data.samples import Dataset, Source, check_room, first_shuffled
from workloads.data.splits import evenly_mixed
from workloads.messages import first_line
from workloads.plugins import DATASET, Plugin

__all__ = ["DATASETS", "fingerprint_of", "load"]

DATASETS: dict[str, Callable[[DatasetConfig], Source]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "parquet": parquet.parquet,
    "image-folder": image_folder.image_folder,
    "hf": hugging_face.hf,
    "wds": archives.wds,
}
# What the files or the Hub say of settings that are left open, such as which split is measured on.
SETTLED: dict[str, Callable[[DatasetConfig], DatasetConfig]] = {
    "parquet": parquet.settled,
    "image-folder": image_folder.settled,
    "hf": hugging_face.settled,
    "wds": archives.settled,
}
FEW_IMAGES = 64  # that are in memory at a time at least, also where others wait on disk
OF_FILES = ("train", "test", "resize", "channels", "background")
# Settings that only some of the data sets above read, with those that do; functions of the user's may read any.
READ_BY = {
    **dict.fromkeys(OF_FILES, ("parquet", "image-folder", "hf", "wds")),
    "stream": ("image-folder", "hf", "wds"),
    "image_column": ("parquet", "hf"),
    "label_column": ("parquet", "hf"),
    "configuration": ("hf",),
    "revision": ("hf",),
}


def settled(config: DatasetConfig) -> DatasetConfig:
    """The settings with what only the files or the Hub can say: the place, the commit, the split to measure on.

    Raises:
        ValueError: an unknown name, or a data set that cannot be had.
    """
    DATASET.plugin(config.name)
    _check_settings_are_read(config)
    return SETTLED[config.reader](config) if config.reader in SETTLED else config


@functools.lru_cache(maxsize=2)
def load(config: DatasetConfig) -> Dataset:
    """The data set, with normalisation and the requested share of its samples.

    Images are decoded when first used, not here; but of files, all labels and headers are read, and some pixels.

    Raises:
        ValueError: an unknown name, settings that are missing or not read, unreadable files, or too few samples.
        FileNotFoundError: files that are not where `dataset.root` says.
    """
    plugin = DATASET.plugin(config.name)
    config = settled(config)
    source: Source = made_by(plugin, config)
    if not isinstance(source, Source):
        raise ValueError(
            f"data set '{config.name}' gave {type(source).__name__}: its function has to return a Source, as "
            f"workloads.data.samples.in_memory(train, test, classes, fingerprint) makes it"
        )
    mean, std = _normalisation(config, source)
    test = source.train if config.held_out else source.test
    for part, samples in (("train", source.train), ("test", test)):
        count, labels = len(samples), samples.labels
        check_room(FEW_IMAGES, samples.shape)
        if not count or labels.min() < 0 or labels.max() >= len(source.classes):
            raise ValueError(
                f"the {count} {part} images of '{config.name}' need labels from 0 to {len(source.classes) - 1}, one a "
                f"class" + (f"; they go from {labels.min()} to {labels.max()}" if count else "")
            )
    pools = {"train": torch.arange(len(source.train)), "test": torch.arange(len(test))}
    if config.held_out:
        pools["train"], pools["test"] = held_out(source.train.labels, config.held_out)
    for part, wanted in (("train", config.train_samples), ("test", config.test_samples)):
        count = len(pools[part])
        if wanted is not None and wanted > count:
            raise ValueError(f"dataset.{part}_samples is {wanted}, but '{config.name}' has {count} {part} images")
        if wanted is not None:
            pools[part] = pools[part][first_shuffled(count, wanted)]
    return Dataset(
        source.train,
        test,
        source.classes,
        source.fingerprint,
        mean,
        std,
        pools["train"],
        pools["test"],
        notes=source.notes,
        label=config.label or source.label or config.name.rpartition(":")[2],
        published=source.published,
        measured_on=f"{config.held_out:g} of {config.train}, held out" if config.held_out else config.test or "test",
    )


def made_by(plugin: Plugin, config: DatasetConfig) -> Source:
    """What the function of a data set returns.

    Raises:
        ValueError: it fails; says which, and how.
    """
    try:
        source: Source = plugin(config)
    except (ValueError, OSError):
        raise  # these say themselves what is wrong with the files
    except Exception as error:
        raise ValueError(f"{plugin.where} fails ({first_line(error)})") from error
    return source


def held_out(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Numbers of the images that stay for training and of those held out for measuring, which no training sees.

    Every class gives the same share, as nearly as whole images allow; the shuffle is fixed.

    Raises:
        ValueError: one of the two would be empty.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    order = order[evenly_mixed(labels[order])]
    count = round(share * len(labels))
    if not 0 < count < len(labels):
        raise ValueError(
            f"dataset.held_out is {share:g}: of {len(labels)} training images that leaves none to measure on"
        )
    return order[count:].sort().values, order[:count].sort().values


def _check_settings_are_read(config: DatasetConfig) -> None:
    """Refuse a setting that the data set of this name would pass over without a word."""
    if config.reader not in DATASETS:
        return
    for setting, readers in READ_BY.items():
        given = getattr(config, setting) != DatasetConfig.model_fields[setting].default
        if given and config.reader not in readers:
            raise ValueError(
                f"dataset.{setting} is a setting of {', '.join(readers)}, which '{config.name}' does not read: "
                f"leave it out"
            )


def _normalisation(config: DatasetConfig, source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation a channel."""
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
    return mean, std
