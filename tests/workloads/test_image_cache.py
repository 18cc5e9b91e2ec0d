"""Files of decoded images are whole, or made again."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from workloads.data import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


IMAGES = torch.arange(4 * 3 * 8 * 8).reshape(4, 3, 8, 8).to(torch.uint8)


@pytest.mark.parametrize("damage", ["empty", "cut", "zeroed", "seal", "foreign", "folder of one byte"])
def test_a_damaged_file_is_made_again(folder: Path, damage: str) -> None:
    made: list[int] = []

    def make() -> torch.Tensor:
        made.append(1)
        return IMAGES

    assert torch.equal(cache.memory_mapped("set", make), IMAGES)
    file = folder / "set.npy"
    assert torch.equal(cache.memory_mapped("set", make), IMAGES)
    assert len(made) == 1, "a whole file is used as it is"
    whole = file.read_bytes()
    damaged = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "zeroed": whole[:300] + bytes(100) + whole[400:],
        "seal": whole[:-4] + b"\1\1\1\1" + b"",
        "foreign": b"\x93NUMPY" + whole[6:-20],
        "folder of one byte": b"x",
    }[damage]
    file.write_bytes(damaged)
    assert torch.equal(cache.memory_mapped("set", make), IMAGES)
    assert len(made) == (1 if damage == "seal" else 2), "a time that is another is no damage: the checksum fits"
    assert file.read_bytes()[:-12] == whole[:-12]


def test_a_large_file_is_compared_with_its_checksum_where_its_time_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CHECKED_BYTES", 100)
    checked: list[int] = []
    checksum = cache._checksum
    cache.memory_mapped("set", lambda: IMAGES)

    def counted(file, length):
        checked.append(length)
        return checksum(file, length)

    monkeypatch.setattr(cache, "_checksum", counted)
    cache.memory_mapped("set", lambda: IMAGES)
    assert not checked
    file = folder / "set.npy"
    file.write_bytes(file.read_bytes()[:300] + bytes(100) + file.read_bytes()[400:])
    assert torch.equal(cache.memory_mapped("set", lambda: IMAGES), IMAGES)
    assert checked


def test_images_stay_in_memory_where_they_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "file"))
    assert torch.equal(cache.memory_mapped("set", lambda: IMAGES), IMAGES)


MAKING = """
import sys, time
import subprocess
import sys
from pathlib import Path

import torch

from workloads.data import cache

def make():
    with Path(sys.argv[1]).open("a") as file:
        file.write("made\\n")
    time.sleep(1)
    return torch.arange(64).to(torch.uint8)

assert torch.equal(cache.memory_mapped("set", make), torch.arange(64).to(torch.uint8))
"""


def test_of_processes_that_want_the_same_images_at_a_time_one_decodes_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKING, str(tmp_path / "log")]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def test_who_dies_while_decoding_keeps_nobody_out(folder: Path, tmp_path: Path) -> None:
    dying = MAKING.replace("time.sleep(1)", "import os; os._exit(3)")
    assert subprocess.run([sys.executable, "-c", dying, str(tmp_path / "log")]).returncode == 3
    assert torch.equal(cache.memory_mapped("set", lambda: IMAGES), IMAGES)


def test_a_user_without_a_home_has_a_cache_among_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("METAPRUNE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_folder() == Path.home() / ".cache" / "metaprune"
    monkeypatch.setattr(Path, "home", homeless)
    assert cache.cache_folder() == Path(tempfile.gettempdir()) / f"metaprune-{os.getuid()}"
