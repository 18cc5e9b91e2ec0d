"""A network and a criterion that work as they should until a file orders a fault; workers import this module."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from pyarrow import fs

from orchestrator.storage.store import Store
from tests.conftest import memory
from workloads.compression.criteria.magnitude import l1
from workloads.compression.methods.selecting import conventional

ORDER = Path(os.environ["FAULT_ORDER"])
passed: dict[float, int] = {}


def pass_by(place: str) -> None:
    """Do what is ordered, once, when this worker has come by as often as the order says; in the driver, nothing."""
    if Path(sys.argv[0]).name != "default_worker.py":
        return
    try:
        order, number = json.loads(ORDER.read_text()), ORDER.stat().st_mtime
    except FileNotFoundError:  # nothing is ordered, or another worker has just carried it out
        return
    if order["place"] != place:
        return
    passed[number] = passed.get(number, 0) + 1
    if passed[number] < order["after"]:
        return
    if not order["again"]:
        try:
            ORDER.unlink()
        except FileNotFoundError:  # of two workers that came by at once, the other one has it
            return
    globals()[order["action"]](order)


def kill_worker(order: dict) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_driver(order: dict) -> None:
    os.kill(json.loads(Path(order["run"], "driver.json").read_text())["pid"], signal.SIGKILL)
    time.sleep(60)


def kill_before_rename(order: dict) -> None:
    class Killing(fs.LocalFileSystem):
        def move(self, source: str, target: str) -> None:
            assert os.path.getsize(source) > 0
            os.kill(os.getpid(), signal.SIGKILL)

    original = Store._write

    def write(self: Store, content: bytes, target: str) -> None:
        self.files = Killing()
        original(self, content, target)

    Store._write = write  # type: ignore[method-assign]


def raise_error(order: dict) -> None:
    raise RuntimeError("out of luck")


def hang(order: dict) -> None:
    """Hang as code does that goes on in small steps, between which it can be interrupted."""
    for _ in range(6000):
        time.sleep(0.1)


def hang_to_the_limit(order: dict) -> None:
    """Hang until the stage's time is over, which is sooner than the limit says."""
    left, again = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left <= order["limit"]
    signal.setitimer(signal.ITIMER_REAL, 1, again)
    time.sleep(600)


def hang_for_ever(order: dict) -> None:
    """Hang, whatever is raised meanwhile; the stage's time is over sooner than its limit says."""
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)


def hog_memory(order: dict) -> None:
    """Take what is missing to more than is allowed, also where others let go of some, until Ray ends this process."""
    held = []
    for _ in range(6000):
        if memory()[0] < order["most"] + 0.02:
            held.append(b"x" * 100 * 2**20)
        time.sleep(0.02)


def fill_disk(order: dict) -> None:
    with contextlib.suppress(OSError), open(order["file"], "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


class Net(torch.nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            pass_by("train")
        return super().forward(x)


def net(*, in_channels: int, num_classes: int) -> Net:
    nn = torch.nn
    layers = [nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(4)]
    return Net(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, num_classes))


def criterion(model, group):
    """L1, if nothing happens."""
    pass_by("sweep")
    return l1(model, group)


def method(pairings, importance, m):
    """Conventional pruning, if nothing happens."""
    pass_by(f"method-{m}")
    return conventional(pairings, importance, m)
