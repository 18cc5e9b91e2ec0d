"""Images in Parquet: which files, columns and classes are read, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.workloads.pictures import content, picture, pixels, table, write
from workloads.config import DatasetConfig
from workloads.data.datasets import load
from workloads.data.samples import Dataset

GOOD = table()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))
    load.cache_clear()


def loaded(root: Path, **settings: Any) -> Dataset:
    return load(DatasetConfig(name="parquet", root=str(root), **settings))


def with_parts(root: Path, train: pa.Table | bytes = GOOD, test: pa.Table | bytes = GOOD) -> Path:
    write(root / "train.parquet", train)
    write(root / "test.parquet", test)
    return root


def colours(labels: list[int], names: str) -> pa.Table:
    """Red, green and blue images labelled by number, with names of the numbers."""
    images = [Image.new("RGB", (4, 4), ["red", "lime", "blue"]["rgb".index(names[label])]) for label in labels]
    return table([content(image) for image in images], labels, names)


@pytest.mark.parametrize("names", ["rgb", "bgr", "gb"])
def test_classes_of_the_test_file_are_matched_by_name(tmp_path: Path, names: str) -> None:
    labels = list(range(len(names)))
    dataset = loaded(with_parts(tmp_path, colours([0, 1, 2], "rgb"), colours(labels, names)))
    brightest = dataset.test.images.float().mean((2, 3)).argmax(1)
    assert torch.equal(brightest, dataset.test.labels)
    assert dataset.classes == ("r", "g", "b")


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    unknown = table(labels=[0, 1, 0, 2, 0, 1], names=["cat", "dog", "cow"])
    with_parts(tmp_path, table(names=["cat", "dog"]), unknown)
    with pytest.raises(ValueError, match=r"row 3 of column 'label' in '.*test.parquet' is class 'cow', of which there"):
        loaded(tmp_path)
    with_parts(tmp_path, table(names=["cat", "dog", "cow"]), unknown)
    with pytest.raises(ValueError, match=r"row 3 .* is class 'cow', of which there is no training image \(1 in all"):
        loaded(tmp_path)
    with_parts(tmp_path, table(), table(labels=[0, 1, 2, 0, 1, 2]))
    with pytest.raises(ValueError, match=r"row 2 of column 'label' in '.*test.parquet' is class '2'"):
        loaded(tmp_path)


def test_shards_that_name_other_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", table(names=["a", "b"]))
    write(tmp_path / "train-1.parquet", table(names=["b", "a"]))
    write(tmp_path / "test.parquet", GOOD)
    with pytest.raises(ValueError, match=r"train-1.parquet' names other classes in column 'label' than"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "dog"] * 3, r"row 0 of column 'label' in '.*train.parquet' is 'cat', of type string"),
        ([[0], [1]] * 3, r"row 0 .* of type list"),
        (pa.array(["a", "b"] * 3).dictionary_encode(), "row 0 .* is 'a', of type string"),
        ([0, 1, 0, 1, 0, None], r"row 5 .* has no label \(1 in all\)"),
        ([None] * 6, r"row 0 .* has no label \(6 in all\)"),
        ([0.0, 1.0, float("nan"), 1.0, 0.0, 1.0], r"row 2 .* is nan, which is no class"),
        ([0.0, 1.7, 0.0, 1.0, 0.0, 1.0], r"row 1 .* is 1.7, which is no class"),
        ([0.0, float("inf")] * 3, r"row 1 .* is inf"),
        ([-1] * 6, r"row 0 .* is -1, which is no class, as the Hub marks images whose label is kept back"),
        ([1, 2] * 3, "go from 1 to 2, but there are no images of 0: number"),
        ([0, 5] * 3, "go from 0 to 5, but there are no images of 1, 2, 3, 4: number"),
        ([0, 500, 1000] * 2, r"row 2 .* is 1000: labels are whole numbers from 0, without gaps"),
        (pa.array([0, 2**63] * 3, pa.uint64()), r"row 1 .* is 9.22337e\+18"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(with_parts(tmp_path, table(labels=labels)))


@pytest.mark.parametrize(
    "labels",
    [[0.0, 1.0] * 3, [False, True] * 3, pa.array([0, 1] * 3, pa.uint8()), pa.array([0, 1] * 3).dictionary_encode()],
)
def test_whole_numbers_of_any_type_are_labels(tmp_path: Path, labels: Any) -> None:
    dataset = loaded(with_parts(tmp_path, table(labels=labels)))
    assert dataset.train.labels.tolist() == [0, 1] * 3
    assert dataset.train.labels.dtype == torch.int64


def test_a_label_beyond_the_named_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 2 .* is 2, but the file names 2 classes, 0 to 1"):
        loaded(with_parts(tmp_path, table(labels=[0, 1, 2, 0, 1, 0], names=["a", "b"])))


def test_what_is_unusual_about_classes_is_said(tmp_path: Path) -> None:
    notes = loaded(with_parts(tmp_path, table(names=["a", "b", "c"]), GOOD)).notes
    assert "Classes without a training image: 1 of 3 (c)." in notes
    assert any("test.parquet' names no classes" in note for note in notes)


@pytest.mark.parametrize(
    "described", ["null", "{}", '{"info": null}', '{"info": {"features": null}}', "no JSON", '{"info": []}']
)
def test_descriptions_without_names_are_no_hindrance(tmp_path: Path, described: str) -> None:
    dataset = loaded(with_parts(tmp_path, GOOD.replace_schema_metadata({"huggingface": described})))
    assert dataset.classes == ("0", "1")


ONE = content(picture(0))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"row 5 of column 'image' in '.*train.parquet' has no image"),
        ({"bytes": None, "path": None}, "row 5 .* has no image"),
        (
            {"bytes": None, "path": "nowhere/5.png"},
            "row 5 .* holds no image but the path 'nowhere/5.png', which is not",
        ),
        (ONE[:-30], "row 5 .* is damaged or cut off"),
        (b"", "row 5 .* is empty"),
        (b"404 not found", "row 5 .* is no image that can be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "row 5 .* is a Git LFS pointer"),
        (content(Image.new("F", (8, 8)), "TIFF"), "row 5 .* holds floats, which have no range"),
        (content(Image.new("RGBA", (8, 8))), "row 5 .* is transparent in places .* dataset.background"),
        (content(picture(0, (9, 8))), r"different sizes \(the first is 8×8 pixels, row 5 .*: 8×9\): give dataset.size"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_before_a_run(tmp_path: Path, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(with_parts(tmp_path, table([ONE] * 5 + [image])))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"", "train.parquet' is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "train.parquet' is a Git LFS pointer.*git lfs pull"),
        (b"PAR1 and no more", "train.parquet' is no Parquet file, or cut off"),
        (GOOD.slice(0, 0), "the split for train has no images: '.*train.parquet' has 0 rows"),
        (pa.table({"image": [[[1, 2], [3, 4]]] * 2, "label": [0, 1]}), "'image' holds lists of numbers"),
        (GOOD.append_column("mask", GOOD["image"]), r"several image columns \(image, mask\).*dataset.image_column"),
        (GOOD.append_column("labels", GOOD["label"]), r"several label columns \(label, labels\).*dataset.label_column"),
        (table(label="species"), "has no column 'label'; it has: image, species: .*dataset.label_column"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, train: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(with_parts(tmp_path, train))


@pytest.mark.parametrize(("renamed", "column"), [({"label": "labels"}, "label"), ({"image": "img"}, "image")])
def test_other_columns_in_test_are_named(tmp_path: Path, renamed: dict[str, str], column: str) -> None:
    with_parts(tmp_path, test=table(**renamed))
    with pytest.raises(ValueError, match=rf"test.parquet' has no column '{column}', which '.*train.parquet' has"):
        loaded(tmp_path)


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "train.parquet", table()).read_bytes()
    with_parts(tmp_path, whole[:200] + bytes(len(whole) - 2000) + whole[200 + len(whole) - 2000 :])
    with pytest.raises(ValueError, match=r"train.parquet"):
        loaded(tmp_path)


def test_empty_shards_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", pa.table({"image": pa.nulls(0), "label": pa.nulls(0)}))
    write(tmp_path / "train-1.parquet", GOOD)
    write(tmp_path / "test.parquet", GOOD)
    assert len(loaded(tmp_path).train) == 6


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    masks = pa.array([{"bytes": content(Image.new("L", (8, 8), i)), "path": None} for i in range(6)])
    both = GOOD.append_column("mask", masks).append_column("species", pa.array([0, 1, 2] * 2))
    with_parts(tmp_path, both, both)
    chosen = loaded(tmp_path, image_column="mask", label_column="species")
    assert chosen.train.images[:, 0, 0, 0].tolist() == list(range(6))
    assert chosen.train.labels.tolist() == [0, 1, 2] * 2
    assert loaded(tmp_path, image_column="image").train.images.shape == (6, 3, 8, 8), "each has its own cached images"
    with pytest.raises(
        ValueError, match=r"dataset.image_column is 'msk', which '.*train.parquet' has not among its col"
    ):
        loaded(tmp_path, image_column="msk")
    with pytest.raises(ValueError, match=r"column 'label' of '.*' holds int64, not images"):
        loaded(tmp_path, image_column="label")


def test_bytes_without_a_struct_are_images(tmp_path: Path) -> None:
    images = [content(picture(i)) for i in range(6)]
    with_parts(tmp_path, pa.table({"png": images, "label": [0, 1] * 3}), pa.table({"png": images, "label": [0, 1] * 3}))
    assert torch.equal(loaded(tmp_path).train.images[3], pixels(picture(3)))


@pytest.mark.parametrize(
    "path", ["train/{i}.png", "/elsewhere/on/another/machine/train/{i}.png", "{here}/train/{i}.png"]
)
def test_images_beside_the_file_are_read_and_known_by_content(tmp_path: Path, path: str) -> None:
    """As `datasets` writes an imagefolder to Parquet: paths, and no bytes."""
    rows = [{"bytes": None, "path": path.format(i=i, here=tmp_path)} for i in range(6)]
    for i in range(6):
        write(tmp_path / "train" / f"{i}.png", picture(i))
    with_parts(tmp_path, table(rows))
    first = loaded(tmp_path)
    assert torch.equal(first.train.images[4], pixels(picture(4)))
    write(tmp_path / "train" / "4.png", picture(9))
    load.cache_clear()
    again = loaded(tmp_path)
    assert again.fingerprint != first.fingerprint
    assert torch.equal(again.train.images[4], pixels(picture(9)))


def test_two_paths_that_lead_to_one_file_are_refused(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": f"/gone/{name}/0.png"} for name in ("ant", "bee")]
    write(tmp_path / "0.png", picture(0))
    with pytest.raises(ValueError, match=r"row 1 .* names '/gone/bee/0.png', but the file found for it"):
        loaded(with_parts(tmp_path, table(rows)))


def test_every_mode_is_read_by_its_range(tmp_path: Path) -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16))
    shallow = Image.fromarray((np.asarray(deep) / 257).round().astype(np.uint8))
    for number, format_name in enumerate(("PNG", "TIFF", "PPM")):
        root = tmp_path / str(number)
        dataset = loaded(with_parts(root, table([content(deep, format_name)] * 2)), channels=1)
        assert torch.equal(dataset.train.images[0, 0], torch.from_numpy(np.array(shallow))), format_name
        assert any(note.startswith("Images of 16 bits") for note in dataset.notes)


def test_a_grey_first_image_does_not_make_a_colour_set_grey(tmp_path: Path) -> None:
    grey = content(picture(0).convert("L"))
    with_parts(tmp_path, table([grey, *[content(picture(i)) for i in range(1, 6)]]))
    dataset = loaded(tmp_path)
    assert torch.equal(dataset.train.images[3], pixels(picture(3)))
    assert any(note.startswith("Grey images among coloured ones: 1 of 12") for note in dataset.notes)
    assert loaded(tmp_path, channels=1).shape == (1, 8, 8)


SHARDS = {"train-00000-of-00002": 0, "train-00001-of-00002": 1, "test-00000-of-00001": 0}


def shards(root: Path, names: Any) -> Path:
    for name in names:
        write(root / f"{name}.parquet", GOOD)
    return root


@pytest.mark.parametrize(
    ("names", "images"),
    [
        ([*SHARDS], 12),
        ([*SHARDS, "train_small-00000-of-00001", "test_corrupted-00000-of-00001", "._train-00000-of-00002"], 12),
        (["train-00000-of-00002-a09b74b3ef9c3b56", "train-00001-of-00002-b09b74b3ef9c3b56", "test"], 12),
        (["train/0000", "train/0001", "test/0000"], 12),
        (["train/part-a", "train/part-b", "train/._part-a", "test"], 12),
        (["data/train-00000-of-00001", "data/test-00000-of-00001"], 6),
        (["plain_text/train-00000-of-00001", "plain_text/test-00000-of-00001"], 6),
        (["train_images", "test_images"], 6),
        (["train_0", "train_1", "test"], 12),
    ],
)
def test_one_set_of_files_is_read(tmp_path: Path, names: list[str], images: int) -> None:
    assert len(loaded(shards(tmp_path, names)).train) == images


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*SHARDS, "train-00000-of-00001"], r"several sets of files for train: train-\*-of-00001, train-\*-of-00002"),
        ([*SHARDS, "train"], r"several sets of files for train: train-\*-of-00002, train.parquet"),
        ([*SHARDS, "train/0"], r"several sets of files for train: train-\*-of-00002, train/"),
        ([*SHARDS, "train-0"], r"several sets of files for train: .*train-\*"),
        (["train_a", "train_b", "test"], "several sets of files for train: train_a.parquet, train_b.parquet"),
        (["train/a-00000-of-00001", "train/b-00000-of-00001", "test"], r"several sets of files: a-\*-of-00001, b-\*"),
        ([*SHARDS][1:], "of the 2 shards .* number 0 is missing: fetch it"),
        (
            [*SHARDS, "train-00000-of-00002-a09b74b3ef9c3b56"],
            "of the 2 shards .* number 0 is there twice: leave one of them there",
        ),
        ([*SHARDS, "train-00002-of-00002"], "has a shard 2 of 2"),
        (["big/train", "big/test", "small/train", "small/test"], "holds several data sets: .*: big, small"),
    ],
)
def test_a_folder_of_several_sets_is_refused_with_their_names(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(shards(tmp_path, names))


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    shards(tmp_path, ["train", "validation", "extra"])
    with pytest.raises(FileNotFoundError, match=r"tests.parquet nor tests/\*.parquet; it holds extra, train, valid"):
        loaded(tmp_path, test="tests")
    assert len(loaded(tmp_path, test="extra").test) == 6
    dataset = loaded(tmp_path)
    assert (len(dataset.test), dataset.measured_on) == (6, "validation")
    assert any("also holds extra, not read" in note for note in dataset.notes)


CIFAR100 = "---\ndataset_info:\n- config_name: cifar100\n  features: []\npretty_name: Cifar100\n---\n# About"


@pytest.mark.parametrize(
    ("root", "files", "name"),
    [
        ("set/data", {}, "set"),
        ("cifar/plain_text", {"cifar/README.md": "---\npretty_name: Cifar10\n---\n# About"}, "cifar10"),
        ("c/cifar100", {"c/README.md": CIFAR100}, "cifar100"),
        ("birds", {"birds/dataset_info.json": '{"builder_name": "parquet", "dataset_name": "my birds"}'}, "my birds"),
        ("birds", {"birds/README.md": "no head"}, "birds"),
        ("datasets--zalando--fashion_mnist/snapshots/0a1b/data", {}, "fashion-mnist"),
    ],
)
def test_a_data_set_has_the_name_that_the_hub_gives_it(
    tmp_path: Path, root: str, files: dict[str, str], name: str
) -> None:
    with_parts(tmp_path / root)
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    assert loaded(tmp_path / root).label == name
    assert loaded(tmp_path / root, label="mine").label == "mine"
