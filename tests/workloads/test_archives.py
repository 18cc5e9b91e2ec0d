"""Shards of webdataset are read as it writes them."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workloads.pictures import content, picture, pixels
from workloads.config import DatasetConfig
from workloads.data.archives import expanded_ranges
from workloads.data.datasets import load, settled
from workloads.data.samples import Dataset, StreamedSamples


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))
    load.cache_clear()


def shard(path: Path, first: int = 0, **files: bytes | None) -> Path:
    """Four pictures of two classes; `files` stand in place of the first one's, by their endings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + 4):
            sample = {"png": content(picture(i)), "cls": b"%d" % (i % 2)}
            for ending, value in {**sample, **(files if i == first else {})}.items():
                if value is not None:
                    member = tarfile.TarInfo(f"{i:04}.{ending}")
                    member.size = len(value)
                    tar.addfile(member, io.BytesIO(value))
    return path


def shards(root: Path) -> Path:
    for number, name in enumerate(("it-train-00", "it-train-01", "it-val-00")):
        shard(root / f"{name}.tar", 4 * number)
    return root


def loaded(place: Any, **settings: Any) -> Dataset:
    return load(DatasetConfig(name=f"wds:{place}", **settings))


def test_shards_of_the_library_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    for split in ("train", "test"):
        with webdataset.TarWriter(str(tmp_path / f"{split}-000000.tar")) as writer:
            for i in range(4):
                label = {"cls": i % 2} if split == "train" else {"json": {"label": i % 2}}
                writer.write({"__key__": f"a/{i:04}", "png": picture(i), **label})
    dataset = loaded(tmp_path)
    assert torch.equal(dataset.train.images[3], pixels(picture(3)))
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("place", ["", "/it-train-{00..01}.tar"])
def test_shards_are_found_by_the_name_of_their_split_or_a_range(tmp_path: Path, place: str) -> None:
    root = shards(tmp_path / "it")
    whole, streamed = loaded(f"{root}{place}"), loaded(f"{root}{place}", stream=True)
    assert isinstance(streamed.train, StreamedSamples)
    assert (whole.label, whole.measured_on, len(whole.train), len(whole.test)) == ("it", "val", 8, 4)
    streamed.train.workers = 0
    ((images, labels),) = streamed.train.batches(torch.tensor([6, 1]), 2, torch.device("cpu"))
    assert torch.equal(images, whole.train.images[[6, 1]])
    assert torch.equal(images[0], pixels(picture(6)))
    assert labels.tolist() == [0, 1]
    assert settled(DatasetConfig(name=f"wds:{root}")).root == str(root)


def test_ranges_are_written_as_webdataset_has_them() -> None:
    assert expanded_ranges("a-{08..10}") == ["a-08", "a-09", "a-10"]
    assert expanded_ranges("{0..1}-{1..2}") == ["0-1", "0-2", "1-1", "1-2"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"cls": None}, r"sample '0000' of '.*it-train-00.tar' has no label: it has png, not cls or json"),
        ({"cls": b"ant"}, r"the label of sample '0000' of '.*' is 'ant': labels are whole numbers from 0"),
        ({"cls": None, "json": b"{}"}, r"the json of sample '0000' of '.*' has no 'label', and there is no cls"),
        ({"jpg": b"1"}, r"sample '0000' of '.*' has 2 images \(png, cls, jpg\)"),
        ({"png": b"1"}, r"sample '0000' of '.*it-train-00.tar' is no image that can be read"),
        ({"png": content(picture(0, (9, 9)))}, r"different sizes \(the first is 9×9 pixels, sample '0001' of '.*: 8×8"),
        ({"cls": b"7"}, r"labels in the shards of '.*' go from 0 to 7, but there are no images of 2, 3"),
    ],
)
def test_a_sample_that_cannot_be_read_is_named(tmp_path: Path, files: dict[str, bytes | None], sentence: str) -> None:
    shard(shards(tmp_path / "it") / "it-train-00.tar", **files)
    with pytest.raises(ValueError, match=sentence):
        loaded(tmp_path / "it")


def test_shards_that_are_missing_or_cut_off_are_named(tmp_path: Path) -> None:
    root = shards(tmp_path / "it")
    with pytest.raises(FileNotFoundError, match=r"of the 3 shards of it-train.*, '.*it-train-02.tar' is missing"):
        loaded(root / "it-train-{00..02}.tar")
    with pytest.raises(FileNotFoundError, match=r"no shards of tests \(\*.tar\); it has those of train, val: name one"):
        loaded(root, test="tests")
    whole = (root / "it-train-01.tar").read_bytes()
    (root / "it-train-01.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match=r"it-train-01.tar' is no tar file, compressed or cut off"):
        loaded(root)
    (root / "it-train-01.tar").rename(root / "it-train-02.tar")
    with pytest.raises(FileNotFoundError, match=r"of the shards of train in '.*', number 1 is missing: fetch it"):
        loaded(root)
