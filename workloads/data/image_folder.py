"""Images in folders, one a class."""

import functools
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from workloads.config import DatasetConfig
from workloads.data.encoded import EncodedPart, source_of
from workloads.data.fingerprints import fingerprint_of
from workloads.data.naming import name_of
from workloads.data.roots import base_of, existing_root, expanded, folders_in, is_hidden, measured_on, parts_of
from workloads.data.samples import Source

IMAGE_FILES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".jp2",
)  # fmt: skip


@dataclass
class Folder:
    """What a split's folder holds.

    Attributes:
        path: its place.
        images: files by the name of their class, in order.
        left_out: names of files and folders that are not read, by the reason.
    """

    path: Path
    images: dict[str, list[Path]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def notes(self) -> list[str]:
        """A sentence for each reason why something is left out."""
        return [
            f"{self.path.name}: {reason} are left out: {len(names)}, such as '{printable(names[0])}'."
            for reason, names in self.left_out.items()
        ]


def printable(name: str) -> str:
    """A file's name without bytes that are no UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def image_folder(config: DatasetConfig) -> Source:
    """Folders train/CLASS/*.jpg and test/CLASS/*.jpg; with `stream: true` decoded batch by batch."""
    base = base_of(existing_root(config), config.train, lambda folder, split: (folder / split).is_dir())
    found = {part: folder_of(base / name) for part, name in parts_of(config).items()}
    for part, folder in found.items():
        if not any(folder.images.values()):
            raise FileNotFoundError(_no_images(base, part, folder))
    classes = list(found["train"].images)
    notes = _check_classes(base, found)
    files = {part: [file for name in classes for file in each.images.get(name, ())] for part, each in found.items()}
    mark = fingerprint_of([file for part in files.values() for file in part], base)
    parts: dict[str, EncodedPart] = {}
    for part, folder in found.items():
        counts = [len(folder.images.get(name, ())) for name in classes]
        labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
        parts[part] = EncodedPart(files[part], labels, functools.partial(_path_of, files[part]))
    notes = [*[note for folder in found.values() for note in folder.notes()], *notes]
    return source_of(config, parts, mark, classes, notes=notes, label=name_of(base))


def settled(config: DatasetConfig) -> DatasetConfig:
    """The settings with the folder that is measured on: `test`, or ImageNet's `val` where there is none."""
    if config.test or config.held_out or config.root is None or not expanded(config.root).is_dir():
        return config
    base = base_of(expanded(config.root), config.train, lambda folder, split: (folder / split).is_dir())
    with_classes = {folder.name for folder in folders_in(base) if folders_in(folder)} - {config.train}
    measured = measured_on(with_classes)
    return config if measured in (None, "test") else config.model_copy(update={"test": measured})


def _path_of(files: list[Path], number: int) -> str:
    return f"'{files[number]}'"


def _no_images(base: Path, part: str, folder: Folder) -> str:
    others = [each.name for each in folders_in(base) if each != folder.path]
    remedy = f"; it has the folders {', '.join(others)}: name one of them as dataset.{part}" if others else ""
    if others and part == "test":
        remedy += ", or give dataset.held_out, a share of the training images"
    return f"dataset.root '{base}' has no images in {folder.path.name}/CLASS ({', '.join(IMAGE_FILES)}){remedy}"


def _check_classes(base: Path, found: dict[str, Folder]) -> list[str]:
    """Refuse classes that cannot be learnt; a sentence on those that are not tested."""
    train, test = found["train"].images, found["test"].images if "test" in found else {}
    unknown = [name for name, images in test.items() if images and name not in train]
    empty = [name for name, images in train.items() if not images]
    if empty or unknown:
        raise ValueError(
            f"dataset.root '{base}': class '{(empty + unknown)[0]}' has no image in {found['train'].path.name}: remove "
            f"its folder, or put images there"
        )
    untested = [name for name in train if not test.get(name)] if test else []
    if not untested:
        return []
    return [f"Classes without a test image: {len(untested)} of {len(train)}, such as '{untested[0]}'."]


def folder_of(folder: Path) -> Folder:
    """The images in the folders of a folder, by these folders' names; links are followed."""
    found = Folder(folder)
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            found.left_out[f"hidden {'folders' if path.is_dir() else 'files'}"].append(path.name)
        elif path.is_dir():
            found.images[path.name] = _images_below(path, found)
        else:
            found.left_out["files outside of the classes' folders"].append(path.name)
    return found


def _images_below(top: Path, found: Folder) -> list[Path]:
    """The images in a class's folder and in those inside it, sorted; what is no image goes to `left_out`."""
    images: list[Path] = []

    def failed(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(top, onerror=failed, followlinks=True):
        here = Path(place)
        shown = here.relative_to(found.path)
        for name in list(folders):
            if is_hidden(name):
                found.left_out["hidden folders"].append(str(shown / name))
                folders.remove(name)
            elif (here / name).is_symlink() and here.resolve().is_relative_to((here / name).resolve()):
                found.left_out["links into a folder around them"].append(str(shown / name))
                folders.remove(name)
        for name in names:
            if is_hidden(name):
                found.left_out["hidden files"].append(str(shown / name))
            elif not name.lower().endswith(IMAGE_FILES):
                found.left_out["files that are no images by their ending"].append(str(shown / name))
            else:
                images.append(here / name)
    return sorted(images)
