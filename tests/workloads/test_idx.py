"""MNIST and its relatives from the IDX files in which they were published."""

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from workloads.config import DatasetConfig
from workloads.data.datasets import load


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))


def write_idx(root: Path, images: np.ndarray, labels: list[int], compressed: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        for name, header, values in (
            (f"{prefix}-images-idx3-ubyte", struct.pack(">4i", 2051, *images.shape), images.tobytes()),
            (f"{prefix}-labels-idx1-ubyte", struct.pack(">2i", 2049, len(labels)), bytes(labels)),
        ):
            if compressed:
                (root / f"{name}.gz").write_bytes(gzip.compress(header + values))
            else:
                (root / name).write_bytes(header + values)
    return root


DRAWN = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist_from_idx_files(tmp_path: Path, place: str, compressed: bool) -> None:
    write_idx(tmp_path / place, DRAWN, [9, 0, 4], compressed)
    write_idx(tmp_path / "other", 255 - DRAWN, [9, 0, 4])
    dataset = load(DatasetConfig(name="fashion-mnist", root=str(tmp_path)))
    assert torch.equal(dataset.train.images, torch.from_numpy(DRAWN).unsqueeze(1))
    assert dataset.test.labels.tolist() == [9, 0, 4]
    assert dataset.classes[9] == "Ankle boot"
    (note,) = dataset.notes
    assert note.endswith("are not fashion-mnist as it was published.")
    other = load(DatasetConfig(name="fashion-mnist", root=str(tmp_path / "other")))
    assert torch.equal(other.train.images, 255 - torch.from_numpy(DRAWN).unsqueeze(1)), "known by content, not by name"
    assert other.fingerprint != dataset.fingerprint


def test_mnist_has_the_classes_of_digits_and_results_of_its_own(tmp_path: Path) -> None:
    write_idx(tmp_path, DRAWN, [9, 0, 4])
    dataset, fashion = (load(DatasetConfig(name=name, root=str(tmp_path))) for name in ("mnist", "fashion-mnist"))
    assert dataset.classes == tuple("0123456789")
    assert dataset.label == "mnist"
    assert dataset.fingerprint != fashion.fingerprint


def test_the_published_fashion_mnist_keeps_the_keys_of_version_0_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path, DRAWN, [9, 0, 4])
    content_of_all = 2 * (DRAWN.tobytes() + bytes([9, 0, 4]))
    monkeypatch.setattr("workloads.data.builtin.FASHION_MNIST", hashlib.sha256(content_of_all).hexdigest())
    dataset = load(DatasetConfig(name="fashion-mnist", root=str(tmp_path)))
    assert dataset.fingerprint == "fashion-mnist"
    assert not dataset.notes


def test_a_folder_without_the_files_is_refused_whatever_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", unreachable)
    load(DatasetConfig(name="fashion-mnist", root=str(write_idx(tmp_path / "there", DRAWN, [9, 0, 4]))))
    with pytest.raises(FileNotFoundError, match=r"is not under dataset.root '.*nothing' and cannot be downloaded"):
        load(DatasetConfig(name="fashion-mnist", root=str(tmp_path / "nothing")))
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte.gz", lambda whole: whole[:-9], "is damaged or cut off"),
        ("train-images-idx3-ubyte.gz", lambda whole: b"", "is empty"),
        ("train-labels-idx1-ubyte.gz", lambda whole: b"version https://git-lfs", "is a Git LFS pointer"),
        ("t10k-labels-idx1-ubyte.gz", lambda whole: gzip.compress(b"words, not numbers"), "is no IDX file"),
        ("t10k-labels-idx1-ubyte.gz", lambda whole: gzip.compress(gzip.decompress(whole)[:-1]), "says 3 values and ho"),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda whole: gzip.compress(struct.pack(">2i", 2049, 2) + b"\1\2"),
            "images-idx3-ubyte.gz' has 3 images, but '.*' 2 labels",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda whole: gzip.compress(struct.pack(">2i", 2049, 3) + b"\1\2\13"),
            "label 2 of '.*t10k-labels-idx1-ubyte.gz' is 11",
        ),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str) -> None:
    file = write_idx(tmp_path, DRAWN, [9, 0, 4]) / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        load(DatasetConfig(name="mnist", root=str(tmp_path)))
