"""Folders of images: what is read, what is left out and said, and what is refused."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.workloads.pictures import content, picture, pixels, write, write_folder
from workloads.config import DatasetConfig
from workloads.data import samples
from workloads.data.datasets import load
from workloads.data.samples import Dataset, StreamedSamples

STREAM = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))
    load.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set")


def loaded(root: Path, **settings: Any) -> Dataset:
    load.cache_clear()
    return load(DatasetConfig(name="image-folder", root=str(root), **settings))


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".gif", ".jfif", ".pgm", ".webp"])
def test_images_of_every_common_format_are_read(root: Path, suffix: str) -> None:
    kinds = {".jfif": "JPEG", ".pgm": "PPM"}
    name = suffix.lower().removeprefix(".").replace("tiff", "tif").replace("tif", "TIFF")
    write(root / "train" / "ant" / f"2{suffix}", content(picture(0), kinds.get(suffix, name)))
    assert loaded(root).train.labels.bincount().tolist() == [3, 2]


def test_what_is_left_out_is_said(root: Path) -> None:
    write(root / "train" / "ant" / "._0.png", b"\0\5\x16\7" + bytes(80))
    write(root / "train" / "ant" / ".ipynb_checkpoints" / "0-checkpoint.png", picture(0))
    write(root / "train" / "ant" / "notes.txt", b"a")
    write(root / "train" / "ant" / "more" / "b.csv", b"a")
    write(root / "train" / "ant" / "more" / "3.png", picture(3))
    write(root / "train" / "stray.png", picture(0))
    write(root / "train" / "__MACOSX" / "ant" / "._0.png", b"\0\5\x16\7")
    dataset = loaded(root)
    assert dataset.classes == ("ant", "bee")
    assert dataset.train.labels.bincount().tolist() == [3, 2]
    assert {note for note in dataset.notes if note.startswith("train")} == {
        "train: hidden files are left out: 1, such as 'ant/._0.png'.",
        "train: hidden folders are left out: 2, such as '__MACOSX'.",
        "train: files that are no images by their ending are left out: 2, such as 'ant/notes.txt'.",
        "train: files outside of the classes' folders are left out: 1, such as 'stray.png'.",
    }


def test_names_that_are_no_unicode(root: Path) -> None:
    os.rename(root / "train" / "ant" / "0.png", os.path.join(os.fsencode(root / "train" / "ant"), b"\xe9.png"))
    (root / "train" / "ant" / os.fsdecode(b"\xe9.txt")).write_text("a")
    dataset = loaded(root)
    assert dataset.train.images.shape == (4, 3, 8, 8)
    assert dataset.notes[0].endswith("are left out: 1, such as 'ant/\ufffd.txt'.")


def test_links_are_followed(root: Path, tmp_path: Path) -> None:
    more = write_folder(tmp_path / "more", count=3)
    os.symlink(more / "train" / "bee", root / "train" / "ant" / "more")
    os.symlink(more / "train" / "ant", root / "train" / "cow")
    os.symlink(more / "train" / "ant" / "0.png", root / "train" / "bee" / "linked.png")
    dataset = loaded(root)
    assert dataset.classes == ("ant", "bee", "cow")
    assert dataset.train.labels.bincount().tolist() == [5, 3, 3]
    assert "Classes without a test image: 1 of 3, such as 'cow'." in dataset.notes


def test_links_that_lead_nowhere_or_in_a_circle(root: Path) -> None:
    os.symlink(root / "train", root / "train" / "ant" / "loop")
    assert any("links into a folder around them are left out: 1" in note for note in loaded(root).notes)
    os.symlink(root / "gone.png", root / "train" / "bee" / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"bee/gone.png' is a link to '.*gone.png', which is not there"):
        loaded(root)


@STREAM
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-30], "is damaged or cut off"),
        (lambda whole: b"", "is empty"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (lambda whole: b"<html>404</html>", "is no image that can be read"),
    ],
)
def test_a_file_that_is_no_whole_image_is_named_before_a_run(
    root: Path, stream: bool, damage: Any, message: str
) -> None:
    file = root / "train" / "bee" / "1.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"train/bee/1.png' {message}"):
        loaded(root, stream=stream)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_a_cut_file_is_found_among_many(root: Path, monkeypatch: pytest.MonkeyPatch, format_name: str) -> None:
    """Though only one image of the part is decoded as a sample."""
    monkeypatch.setattr("workloads.data.survey.DECODED", 1)
    whole = content(picture(1, (40, 40)), format_name)
    for i in range(9):
        write(root / "train" / "ant" / f"{i}.png", whole)
    write(root / "train" / "ant" / "5.png", whole[:-100])
    with pytest.raises(ValueError, match=r"train/ant/5.png' is damaged or cut off"):
        loaded(root, size=8)


@STREAM
def test_images_of_several_sizes_need_a_size(root: Path, stream: bool) -> None:
    write(root / "train" / "ant" / "0.png", picture(0, (90, 30)))
    with pytest.raises(ValueError, match=r"different sizes .*30×90 .*1.png': 8×8\): give dataset.size"):
        loaded(root, stream=stream)
    assert loaded(root, stream=stream, size=8).shape == (3, 8, 8)


@STREAM
def test_the_orientation_of_exif_is_applied(root: Path, stream: bool) -> None:
    before = loaded(root, stream=stream).fingerprint
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = content(picture(7), exif=exif)
    write(root / "train" / "ant" / "0.png", turned)
    dataset = loaded(root, stream=stream)
    ((images, _),) = dataset.train.batches(torch.tensor([0]), 1, torch.device("cpu"))
    assert torch.equal(images[0], pixels(picture(7).transpose(Image.Transpose.ROTATE_270)))
    assert "Images turned as their EXIF orientation says: 1." in dataset.notes
    assert dataset.fingerprint != before


@STREAM
def test_transparent_images_are_laid_on_the_background_asked_for(root: Path, stream: bool) -> None:
    alpha = np.zeros((8, 8, 4), np.uint8)
    alpha[:4] = (10, 20, 30, 255)
    write(root / "train" / "ant" / "0.png", Image.fromarray(alpha))
    with pytest.raises(ValueError, match=r"train/ant/0.png' is transparent in places.*dataset.background"):
        loaded(root, stream=stream)
    for background, value in (("black", 0), ("white", 255)):
        dataset = loaded(root, stream=stream, background=background)
        ((images, _),) = dataset.train.batches(torch.tensor([0]), 1, torch.device("cpu"))
        assert images[0, :, 0, 0].tolist() == [10, 20, 30]
        assert images[0, :, 7, 7].tolist() == [value] * 3


def test_an_alpha_channel_without_transparency_changes_nothing(root: Path) -> None:
    write(root / "train" / "ant" / "0.png", picture(0).convert("RGBA"))
    dataset = loaded(root)
    assert torch.equal(dataset.train.images[0], pixels(picture(0)))
    assert not dataset.notes


def test_several_frames_are_said(root: Path) -> None:
    write(root / "train" / "ant" / "2.gif", content(picture(0), "GIF", save_all=True, append_images=[picture(1)]))
    assert "Files of several frames, of which the first is read: 1." in loaded(root).notes


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ("train", "val"))
    with pytest.raises(FileNotFoundError, match=r"no images in tests/CLASS .* has the folders train, val: name one"):
        loaded(root, test="tests")
    write(root / "test" / "unlabelled.png", picture(0))
    assert (len(loaded(root).test), loaded(root).measured_on) == (4, "val")
    assert len(loaded(root, train="val", test="train").train) == 4


def test_the_hubs_folder_data_is_found_and_named_by_what_is_around_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "birds" / "data")
    inside, around = loaded(tmp_path / "birds" / "data"), loaded(tmp_path / "birds")
    assert inside.label == around.label == "birds"
    assert inside.fingerprint == around.fingerprint


def test_an_edit_among_many_files_is_noticed_and_nothing_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, one = write_folder(tmp_path / "set", count=1), content(picture(0))
    for i in range(300):
        write(root / "train" / "ant" / f"{i}.png", one)
    for file in root.rglob("*.png"):
        os.utime(file, (1, 1))
    monkeypatch.setattr("workloads.data.fingerprints.SETTLED", -3600)
    read: list[Path] = []
    from workloads.data import fingerprints

    digest = fingerprints._digest

    def counted(file):
        read.append(file)
        return digest(file)

    monkeypatch.setattr(fingerprints, "_digest", counted)
    before = loaded(root)
    assert len(read) == 303
    read.clear()
    assert loaded(root).fingerprint == before.fingerprint
    assert not read
    edited = root / "train" / "ant" / "101.png"
    content_before = edited.read_bytes()
    edited.write_bytes(content_before[:-20] + bytes([content_before[-20] ^ 1]) + content_before[-19:])
    os.utime(edited, (1, 1))
    with pytest.raises(ValueError, match=r"101.png' is damaged"):
        loaded(root)
    assert read == [edited], "though its size and its time are what they were"
    edited.write_bytes(content_before)
    assert loaded(root).fingerprint == before.fingerprint
    shutil.copytree(root, tmp_path / "moved")
    assert loaded(tmp_path / "moved").fingerprint == before.fingerprint


def test_little_shared_memory_means_fewer_loader_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Docker's 64 MiB, where a loader process would die of a bus error."""
    streamed = loaded(write_folder(tmp_path / "set"), stream=True).train
    assert isinstance(streamed, StreamedSamples)
    used: list[int] = []
    loader = torch.utils.data.DataLoader

    def noted(images, num_workers: int, batch_sampler: list[list[int]], **others):
        used.append(num_workers)
        return loader(images, batch_sampler=batch_sampler, num_workers=0)

    monkeypatch.setattr(torch.utils.data, "DataLoader", noted)
    for free in (0, 3 * 4 * streamed.image(0).numel() * 2, sys.maxsize):
        monkeypatch.setattr(samples, "shared_memory", lambda free=free: free)
        assert sum(len(images) for images, _ in streamed.batches(torch.arange(len(streamed)), 2, torch.device("cpu")))
    assert used == [0, 2, 2]
