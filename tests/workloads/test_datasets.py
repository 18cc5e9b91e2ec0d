from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.workloads.pictures import content, picture, pixels, table, write, write_folder
from workloads.config import DatasetConfig
from workloads.data.augmentation import augment, crop, flip, normalise
from workloads.data.datasets import load
from workloads.data.fingerprints import fingerprint_of
from workloads.data.samples import Dataset, Samples, Source, in_memory


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digits_are_all_there_and_apart() -> None:
    dataset = load(DatasetConfig(name="digits"))
    assert (len(dataset.train), len(dataset.test)) == (1438, 359)
    assert dataset.shape == (1, 8, 8)
    assert dataset.train.images.dtype == torch.uint8
    assert int(dataset.train.images.max()) == 255
    assert set(dataset.test.labels.tolist()) == set(range(10))
    assert load(DatasetConfig(name="digits", size=32)).shape == (1, 32, 32)


def test_a_subset_is_drawn_from_all_classes_and_is_the_same_every_time() -> None:
    config = DatasetConfig(name="digits", train_samples=100)
    pool = load(config).train_pool
    assert len(pool) == len(set(pool.tolist())) == 100
    assert torch.equal(pool, load(DatasetConfig(name="digits", train_samples=100, size=16)).train_pool)
    with pytest.raises(ValueError, match=r"dataset.train_samples is 5000, but 'digits' has 1438 train images"):
        load(DatasetConfig(name="digits", train_samples=5000))


def test_batches_are_normalised_with_the_settings() -> None:
    dataset = load(DatasetConfig(name="digits", mean=(0.5,), std=(0.25,), test_samples=10))
    ((images, labels),) = dataset.batches("test", 100)
    expected = (dataset.test.images[dataset.test_pool].float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(images, expected)
    assert torch.equal(labels, dataset.test.labels[dataset.test_pool])
    with pytest.raises(ValueError, match=r"dataset.mean has 3 values; the images have 1 channels"):
        load(DatasetConfig(name="digits", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))


def write_parquet(path: Path, images: list[Image.Image], labels: list[int], names: list[str] | None = None) -> None:
    write(path, table([content(image) for image in images], labels, names, image="img"))


@pytest.mark.parametrize("sharded", [False, True])
def test_parquet(tmp_path: Path, cache: Path, sharded: bool) -> None:
    images, labels = [picture(i) for i in range(4)], [0, 2, 1, 2]
    if sharded:
        write_parquet(tmp_path / "train" / "0.parquet", images[:2], labels[:2], ["cat", "dog", "cow"])
        write_parquet(tmp_path / "train" / "1.parquet", images[2:], labels[2:], ["cat", "dog", "cow"])
    else:
        write_parquet(tmp_path / "train.parquet", images, labels, ["cat", "dog", "cow"])
    write_parquet(tmp_path / "test.parquet", images[:1], labels[:1])
    dataset = load(DatasetConfig(name="parquet", root=str(tmp_path)))
    assert dataset.classes == ("cat", "dog", "cow")
    assert dataset.shape == (3, 8, 8)
    assert dataset.train.labels.tolist() == labels
    assert not cache.exists(), "nothing is decoded before it is used"
    assert torch.equal(dataset.train.images, torch.stack([pixels(i) for i in images]))
    assert len(list((cache / "images").glob("[!.]*"))) == 1
    load.cache_clear()
    again = load(DatasetConfig(name="parquet", root=str(tmp_path)))
    assert torch.equal(again.train.images, dataset.train.images)


def test_a_moved_folder_keeps_its_fingerprint_and_a_changed_one_does_not(tmp_path: Path) -> None:
    for folder, count in (("a", 2), ("b", 2), ("c", 3)):
        for part in ("train", "test"):
            write_parquet(tmp_path / folder / f"{part}.parquet", [picture(i) for i in range(count)], [0] * count)
    marks = [load(DatasetConfig(name="parquet", root=str(tmp_path / f))).fingerprint for f in "abc"]
    assert marks[0] == marks[1] != marks[2]


def grey(config: DatasetConfig) -> Source:
    pair = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2
    return in_memory(pair, pair, ["a", "b"], "grey-1")


def pairs(config: DatasetConfig) -> tuple:
    return (torch.zeros(4, 1, 8, 8), torch.zeros(4))


def test_an_own_data_set_that_is_not_what_it_should_be_is_refused() -> None:
    assert load(DatasetConfig(name=f"{__name__}:grey", size=8)).shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"dataset.size is 32, but '.*:grey' gives images of 8×8 pixels"):
        load(DatasetConfig(name=f"{__name__}:grey", size=32))
    with pytest.raises(ValueError, match=r"data set '.*:pairs' gave tuple: its function has to return a Source"):
        load(DatasetConfig(name=f"{__name__}:pairs"))


def test_folders_of_an_image_folder_that_are_no_classes(tmp_path: Path) -> None:
    for folder in ("train/ant", "train/.ipynb_checkpoints", "test/ant"):
        (tmp_path / folder).mkdir(parents=True)
        picture(0, (12, 10)).save(tmp_path / folder / "0.png")
    config = DatasetConfig(name="image-folder", root=str(tmp_path))
    dataset = load(config)
    assert dataset.classes == ("ant",)
    assert dataset.train.labels.tolist() == [0]
    (tmp_path / "train" / "bee").mkdir()
    load.cache_clear()
    with pytest.raises(ValueError, match="class 'bee' has no image in train: remove its folder"):
        load(config)
    (tmp_path / "train" / "bee").rename(tmp_path / "test" / "bee")
    load(config)
    picture(0, (12, 10)).save(tmp_path / "test" / "bee" / "0.png")
    load.cache_clear()
    with pytest.raises(ValueError, match="class 'bee' has no image in train"):
        load(config)


@pytest.mark.parametrize("stream", [False, True])
def test_image_folder(tmp_path: Path, stream: bool) -> None:
    for part, count in (("train", 3), ("test", 1)):
        for name in ("ant", "bee"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(i, (12, 10)).save(folder / f"{i}.png")
    dataset = load(DatasetConfig(name="image-folder", root=str(tmp_path), size=10, stream=stream))
    assert dataset.classes == ("ant", "bee")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    ((images, labels),) = dataset.train.batches(torch.tensor([4, 0]), 2, torch.device("cpu"))
    assert labels.tolist() == [1, 0]
    assert torch.equal(images[1], pixels(picture(0, (12, 10)))[:, :, 1:11]), "the centre is cut out"


def test_edited_images_of_the_same_size_have_another_fingerprint(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        picture(0).save(tmp_path / part / "a" / "0.bmp")
    config = DatasetConfig(name="image-folder", root=str(tmp_path))
    before = load(config)
    picture(1).save(tmp_path / "train" / "a" / "0.bmp")
    load.cache_clear()
    after = load(config)
    assert before.fingerprint != after.fingerprint
    assert torch.equal(after.train.images[0], pixels(picture(1)))


def test_the_fingerprint_knows_the_middle_of_a_file_and_the_end_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, content = tmp_path / "file", bytearray(3 << 20)
    marks = set()
    for limit, position in ((1 << 29, 0), (1 << 29, 1), (2 << 20, 2), (2 << 20, 3)):
        monkeypatch.setattr("workloads.data.fingerprints.FINGERPRINTED_BYTES", limit)
        content[[0, len(content) // 2, -1, 0][position]] ^= 1
        file.write_bytes(content)
        marks.add(fingerprint_of([file], tmp_path))
    assert len(marks) == 4


@pytest.mark.parametrize("name", ["digits", "image-folder", f"{__name__}:grey"])
def test_a_share_of_the_training_images_is_held_out(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, ("train",), count=10)
    config = DatasetConfig(name=name, root=str(tmp_path), held_out=0.25)
    dataset = load(config)
    train, test = set(dataset.train_pool.tolist()), set(dataset.test_pool.tolist())
    assert not train & test
    assert train | test == set(range(len(dataset.train)))
    assert len(test) == round(0.25 * len(dataset.train))
    ((_, labels),) = dataset.batches("test", 1000)
    counts = labels.bincount() / dataset.train.labels.bincount()
    assert counts.min() >= 0.2
    load.cache_clear()
    assert torch.equal(load(config).test_pool, dataset.test_pool), "the same every time"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": "validation", "held_out": 0.1}, "test is 'validation' and held_out 0.1: give one of the two"),
        ({"test": "train"}, "train and test are both 'train'"),
        ({"train": "test"}, "train and test are both 'test'"),
        ({"train": "../elsewhere"}, "String should match pattern"),
        ({"label": "a/b"}, "String should match pattern"),
    ],
)
def test_splits_that_do_not_fit_together_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetConfig(name="parquet", **settings)


def test_too_few_images_to_hold_some_out_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset.held_out is 0.1: of 4 training images that leaves none"):
        load(DatasetConfig(name=f"{__name__}:grey", held_out=0.1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("digits", {"stream": True}),
        ("parquet", {"stream": True}),
        ("cifar10", {"resize": 40, "size": 32}),
        ("fashion-mnist", {"channels": 3}),
        ("image-folder", {"image_column": "img"}),
        ("digits", {"test": "validation"}),
    ],
)
def test_a_setting_that_a_data_set_does_not_read_is_refused(name: str, settings: dict) -> None:
    with pytest.raises(
        ValueError, match=rf"dataset.\w+ is a setting of .*, which '{name}' does not read: leave it out"
    ):
        load(DatasetConfig(name=name, **settings))


def test_surveys_of_many_images_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    monkeypatch.setattr("workloads.data.survey.KEPT_FROM", 1)
    config = DatasetConfig(name="image-folder", root=str(tmp_path))
    first = load(config)
    monkeypatch.setattr("workloads.data.survey.survey", lambda *_: pytest.fail("it was made again"))
    load.cache_clear()
    again = load(config)
    assert (again.shape, again.fingerprint, again.notes) == (first.shape, first.fingerprint, first.notes)


def test_fingerprints_of_small_sets_are_those_of_version_0_1(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "set" / f"{number}.bin", bytes([number]) * (100 + number))
    files = sorted((tmp_path / "set").iterdir())
    assert fingerprint_of(files, tmp_path) == "84888812a32744b1"


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"name": "digitz"}, ValueError, r"unknown dataset 'digitz'; did you mean 'digits'\?"),
        ({"name": "parquet"}, ValueError, "needs dataset.root"),
        ({"name": "parquet", "root": "/no/such"}, FileNotFoundError, "dataset.root '/no/such' is not a folder"),
        ({"name": "parquet", "root": "."}, FileNotFoundError, "neither train.parquet nor train/"),
        ({"name": "image-folder", "root": "tests"}, FileNotFoundError, "no images in train/CLASS"),
        ({"name": "no_such_module:f"}, ValueError, "the module cannot be imported"),
        ({"name": "no_such_module.py:f"}, ValueError, "leave out .py: 'no_such_module:f'"),
        ({"name": "workloads.data.datasets:nothing"}, ValueError, "has no function 'nothing'"),
    ],
)
def test_what_is_missing_is_named(config: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load(DatasetConfig(**config))


def test_foreign_parquet_is_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / f"{part}.parquet")
    with pytest.raises(ValueError, match=r"train.parquet' has no image column .* it has: text"):
        load(DatasetConfig(name="parquet", root=str(tmp_path)))


def test_images_stay_on_a_gpu_if_they_fit(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU, as neither is the CPU."""
    samples, gpu = Samples(digits.train.labels, digits.shape, digits.train.images), torch.device("meta")
    assert samples.nearest(torch.device("cpu"))[0] is digits.train.images
    images, labels = samples.nearest(gpu)
    assert (images.device, labels.device) == (gpu, gpu)
    assert samples.nearest(gpu)[0] is images, "they are not sent again"
    monkeypatch.setattr("workloads.data.samples.RESIDENT_BYTES", images.nbytes - 1)
    assert samples.nearest(gpu)[0] is digits.train.images
    batches = list(samples.batches(torch.arange(70), 32, gpu))
    assert [(len(images), images.device, labels.device) for images, labels in batches] == [
        (count, gpu, gpu) for count in (32, 32, 6)
    ]


def test_augmentation_moves_pixels_and_keeps_them() -> None:
    images = torch.rand(64, 3, 16, 16)
    flipped = flip(images, torch.Generator().manual_seed(0))
    same = (flipped == images).flatten(1).all(1)
    assert 16 < int(same.sum()) < 48
    assert torch.equal(flipped[~same], images[~same].flip(3))
    cropped = crop(images, torch.Generator().manual_seed(0))
    assert cropped.shape == images.shape
    assert torch.isin(cropped[cropped != 0], images).all()
    again = augment(images, ("flip", "crop"), torch.Generator().manual_seed(5))
    assert torch.equal(again, augment(images, ("flip", "crop"), torch.Generator().manual_seed(5)))


def test_normalise() -> None:
    images = torch.full((1, 2, 1, 1), 51, dtype=torch.uint8)
    torch.testing.assert_close(normalise(images, (0.2, 0.1), (1.0, 0.5)).flatten(), torch.tensor([0.0, 0.2]))


def test_a_larger_side_is_resized_and_the_centre_cut_out(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        picture(0, (40, 20)).save(tmp_path / part / "a" / "0.png")
    plain, cut = (
        load(DatasetConfig(name="image-folder", root=str(tmp_path), size=10, resize=resize)).train.images[0]
        for resize in (None, 16)
    )
    larger = picture(0, (40, 20)).resize((32, 16), Image.Resampling.BILINEAR)
    assert torch.equal(cut, pixels(larger)[:, 3:13, 11:21])
    assert not torch.equal(cut, plain)
    with pytest.raises(ValueError, match="resize is 8 and size 10"):
        DatasetConfig(name="image-folder", size=10, resize=8)


def test_crops_have_black_borders(digits: Dataset) -> None:
    black = normalise(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), digits.mean, digits.std).item()

    def cropped(images: torch.Tensor) -> torch.Tensor:
        return crop(torch.full_like(images, 200), torch.Generator().manual_seed(0))

    ((images, _),) = digits.batches("train", 64, indices=digits.train_pool[:64], augmented=cropped)
    assert images[images < images.max()].unique().tolist() == pytest.approx([black])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(4, 1, 8, 8), torch.arange(4), "uint8 images"),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), torch.arange(4), "uint8 images"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(3), "as many int64 labels"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4).int(), "as many int64 labels"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        in_memory((images, labels), (images, labels), "abcd", "mine")


def from_minus_one(config: DatasetConfig) -> Source:
    part = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) - 1
    return in_memory(part, part, "abcd", "mine")


def test_labels_without_a_class_are_refused() -> None:
    with pytest.raises(ValueError, match="need labels from 0 to 3, one a class; they go from -1 to 2"):
        load(DatasetConfig(name=f"{__name__}:from_minus_one"))
