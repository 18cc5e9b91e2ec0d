"""Data sets in the layouts of `datasets` are read from folders and from the caches, as the library wrote them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from orchestrator.cli import app
from tests.workloads.pictures import content, picture, pixels, write, write_folder
from workloads.config import DatasetConfig
from workloads.data.datasets import load, settled
from workloads.data.samples import Dataset, StreamedSamples

hub = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = ["ant", "bee"]


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is on the Hub, and nothing in any cache."""
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))
    for name in ("HF_DATASETS_CACHE", "HF_CACHE_HOME"):
        monkeypatch.setattr(hub.config, name, str(tmp_path / "hf"), raising=False)
    monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.disable_progress_bars()
    load.cache_clear()
    yield
    load.cache_clear()


def table(count: int = 6, first: int = 0, label: str = "label", image: str = "image", names: Any = NAMES) -> Any:
    """A table of `datasets` of pictures of two classes."""
    features = hub.Features({image: hub.Image(), label: hub.ClassLabel(names=names)})
    images = [{"bytes": content(picture(first + i)), "path": None} for i in range(count)]
    return hub.Dataset.from_dict({image: images, label: [i % 2 for i in range(count)]}, features=features)


def parquet_folder(root: Path, *splits: str, **columns: Any) -> Path:
    for number, split in enumerate(splits):
        place = root / f"data/{split}-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        table(6, 10 * number, **columns).to_parquet(place)
    return root


def loaded(place: Any, **settings: Any) -> Dataset:
    return load(DatasetConfig(name=f"hf:{place}", **settings))


def images_of(dataset: Dataset, part: str) -> torch.Tensor:
    return {"train": dataset.train, "test": dataset.test}[part].images


def test_a_folder_of_parquet_files_is_read_with_its_usual_split_and_column_names(tmp_path: Path) -> None:
    root = parquet_folder(tmp_path / "bugs", "train", "validation", label="fine_label", image="img")
    dataset = loaded(root)
    assert (dataset.label, dataset.classes, dataset.shape) == ("bugs", ("ant", "bee"), (3, 8, 8))
    assert dataset.measured_on == "validation"
    assert torch.equal(images_of(dataset, "train")[1], pixels(picture(1)))
    assert torch.equal(images_of(dataset, "test")[5], pixels(picture(15)))
    assert dataset.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    found = settled(DatasetConfig(name=f"hf:{root}"))
    assert (found.name, found.root, found.test) == ("hf", str(root), "validation")


def test_content_alone_is_what_a_data_set_is_known_by(tmp_path: Path) -> None:
    mark = loaded(parquet_folder(tmp_path / "one", "train", "test")).fingerprint
    hub.DatasetDict({"train": table(6), "test": table(6, 10)}).save_to_disk(tmp_path / "saved")
    assert loaded(tmp_path / "saved").fingerprint == mark
    assert loaded(parquet_folder(tmp_path / "other", "test", "train")).fingerprint != mark
    table(6, names=["ant", "fly"]).to_parquet(tmp_path / "one/data/train-00000-of-00001.parquet")
    load.cache_clear()
    with pytest.raises(ValueError, match=r"names other classes in column 'label' than the other files"):
        loaded(tmp_path / "one")


@pytest.mark.parametrize("stream", [False, True])
def test_folders_of_images_are_read_and_an_image_that_changes_makes_another_set(tmp_path: Path, stream: bool) -> None:
    root = write_folder(tmp_path / "set", ("train", "val"))
    dataset = loaded(root, stream=stream)
    assert dataset.measured_on in ("val", "validation")
    assert isinstance(dataset.train, StreamedSamples) == stream
    assert dataset.classes == ("ant", "bee")
    batches = list(dataset.train.batches(torch.tensor([3, 0]), 2, torch.device("cpu")))
    assert torch.equal(batches[0][0][0], pixels(picture(1)))
    assert batches[0][1].tolist() == [1, 0]
    write(root / "train/ant/0.png", picture(99))
    load.cache_clear()
    assert loaded(root, stream=stream).fingerprint != dataset.fingerprint


def test_a_tenth_is_held_out_where_there_is_no_split_to_measure_on(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    table(40).to_parquet(root / "train.parquet")
    dataset = loaded(root)
    assert dataset.measured_on == "0.1 of train, held out"
    assert (len(dataset.train_pool), len(dataset.test_pool)) == (36, 4)
    assert settled(DatasetConfig(name=f"hf:{root}", held_out=0.25)).held_out == 0.25


def test_labels_in_words_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    images = [{"bytes": content(picture(i)), "path": None} for i in range(4)]
    for split, words in (("train", ["cat", "ant", "cat", "bee"]), ("test", ["cat", "bee", "bee", "cat"])):
        features = hub.Features({"image": hub.Image(), "label": hub.Value("string")})
        hub.Dataset.from_dict({"image": images, "label": words}, features=features).to_parquet(
            tmp_path / f"set/{split}.parquet"
        )
    dataset = loaded(tmp_path / "set")
    assert dataset.classes == ("ant", "bee", "cat")
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([2, 0, 2, 1], [2, 1, 1, 2])


def cached_by_the_library(tmp_path: Path) -> None:
    """What `datasets` keeps of a data set `someone/bugs` that it has downloaded."""
    hub.load_dataset(str(parquet_folder(tmp_path / "bugs", "train", "test")))
    (made,) = (tmp_path / "hf/bugs/default/0.0.0").glob("*[0-9a-f]/dataset_info.json")
    shutil.copytree(made.parent, tmp_path / f"hf/someone___bugs/default/0.0.0/{COMMIT}")


def cached_by_the_hub(tmp_path: Path) -> Path:
    """What `hf download` keeps of it."""
    folder = tmp_path / f"hub/datasets--someone--bugs/snapshots/{COMMIT}"
    parquet_folder(folder, "train", "test")
    card = "---\nlicense: cc-by-4.0\npretty_name: Bugs of the Hub\n---\n"
    write(folder / "README.md", card.encode())
    write(folder.parents[1] / "refs/main", COMMIT.encode())
    return folder


def test_a_data_set_of_the_hub_comes_from_the_librarys_cache_with_its_commit(tmp_path: Path) -> None:
    cached_by_the_library(tmp_path)
    config = settled(DatasetConfig(name="hf:someone/bugs"))
    assert (config.name, config.revision, config.test) == ("hf:someone/bugs", COMMIT, "test")
    dataset = load(config)
    assert (dataset.label, dataset.published) == ("bugs", {"revision": COMMIT})
    assert dataset.fingerprint == loaded(tmp_path / "bugs").fingerprint
    with pytest.raises(ValueError, match=r"cannot be had .*has its commit 0123456789ab, not ffffff"):
        loaded("someone/bugs", revision="f" * 40)


def test_a_data_set_of_the_hub_comes_from_the_hubs_cache_with_its_licence(tmp_path: Path) -> None:
    folder = cached_by_the_hub(tmp_path)
    dataset = loaded("someone/bugs", revision="main")
    assert (dataset.label, dataset.published) == (
        "Bugs of the Hub",
        {"revision": COMMIT, "licence": "cc-by-4.0"},
    )
    (folder / "data/train-00000-of-00001.parquet").rename(folder / "data/train-00000-of-00002.parquet")
    load.cache_clear()
    with pytest.raises(ValueError, match=r"of the 2 shards train-\*-of-00002 in '.*', number 1 is missing: fetch it"):
        loaded("someone/bugs")


def plan(tmp_path: Path, dataset: str) -> Result:
    text = f"name: mine\ndataset: {dataset}\nmodel: {{name: resnet10, width: 0.125}}\n"
    write(tmp_path / "mine.yaml", text.encode())
    return CliRunner().invoke(app, ["plan", str(tmp_path / "mine.yaml")])


def spoilt(root: Path, kind: str) -> None:
    if kind == "size":
        hub.concatenate_datasets([table(2), enlarged()]).to_parquet(root / "data/train-00000-of-00001.parquet")
    elif kind == "image":
        features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=NAMES)})
        images = [{"bytes": b"no image", "path": None}] * 2
        made = hub.Dataset.from_dict({"image": images, "label": [0, 1]}, features=features)
        made.to_parquet(root / "data/train-00000-of-00001.parquet")
    elif kind == "column":
        for split in ("train", "test"):
            table(label="kind").to_parquet(root / f"data/{split}-00000-of-00001.parquet")
    elif kind == "file":
        write(root / "data/train-00000-of-00001.parquet", b"PAR1 no more")


def enlarged() -> Any:
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=NAMES)})
    image = {"bytes": content(Image.new("RGB", (9, 9))), "path": None}
    return hub.Dataset.from_dict({"image": [image], "label": [0]}, features=features)


@pytest.mark.parametrize(
    ("settings", "spoil", "sentence"),
    [
        ("name: 'hf:nobody/nothing'", "", "'hf:nobody/nothing' cannot be had ("),
        ("name: 'hf:nobody/nothing', revision: v1", "", "copy the folder 'datasets--nobody--nothing' of a machine"),
        ("name: 'hf:./nowhere'", "", "dataset 'hf:./nowhere': there is no folder 'nowhere'"),
        ("name: hf", "", "dataset 'hf' needs a place: give hf:OWNER/NAME"),
        ("name: 'hf:ROOT', test: tests", "", "has no split 'tests': it has train, test; name one of them"),
        ("name: 'hf:ROOT', revision: v1", "", "dataset.revision is of data sets of the Hub, a folder has none"),
        ("name: 'hf:ROOT', label_column: kind", "", "dataset.label_column is 'kind', which '"),
        ("name: 'hf:ROOT'", "column", "has no column 'label'; it has: image, kind: name one of them as"),
        ("name: 'hf:ROOT'", "size", "the images have different sizes (the first is 8×8 pixels, row 2 of column"),
        ("name: 'hf:ROOT'", "image", "row 0 of column 'image' in '"),
        ("name: 'hf:ROOT'", "file", "is no data set that `datasets` can read ("),
        ("name: digits, revision: v1", "", "dataset.revision is a setting of hf, which 'digits' does not read"),
    ],
)
def test_bad_input_ends_a_plan_with_one_sentence_and_status_2(
    tmp_path: Path, settings: str, spoil: str, sentence: str
) -> None:
    root = parquet_folder(tmp_path / "bugs", "train", "test")
    spoilt(root, spoil)
    result = plan(tmp_path, f"{{{settings.replace('ROOT', str(root))}}}")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert sentence in result.stderr


def test_the_extra_is_named_where_the_library_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"need the package 'datasets': python -m pip install 'metaprune\[datasets\]'"):
        loaded(write_folder(tmp_path / "set"))
