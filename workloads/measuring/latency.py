"""How long a forward pass takes, with an interval, and what else kept the machine busy meanwhile."""

import math
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from workloads.measuring.precision import float32_products

FEWEST_PASSES = 10
PRECISION = 0.02  # half the interval, as a share of the median, at which measuring ends
MOST_SECONDS = 0.5
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Latency:
    """The time of a forward pass.

    Attributes:
        milliseconds: median over the passes.
        low, high: ends of the median's 95 % interval, from order statistics.
        passes: how many were timed.
    """

    milliseconds: float
    low: float
    high: float
    passes: int


def latency(model: nn.Module, shape: tuple[int, int, int], batch: int, most_seconds: float = MOST_SECONDS) -> Latency:
    """Time forward passes of `batch` images of `shape` (C, H, W), in evaluation mode and float32.

    Passes are repeated, after one that does not count, until the interval of their median is within `PRECISION` on
    either side or `most_seconds` are over, on the device of the weights with PyTorch's present number of threads. What
    else runs there slows it down. The weights are laid out channels-last, in place.
    """
    device = next(model.parameters()).device
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    model.eval().to(memory_format=torch.channels_last)
    seconds: list[float] = []
    with torch.inference_mode(), float32_products():
        _forward_seconds(model, images)
        while True:
            seconds.append(_forward_seconds(model, images))
            if len(seconds) % FEWEST_PASSES == 0 or sum(seconds) >= most_seconds:
                found = summary(seconds)
                enough = len(seconds) >= FEWEST_PASSES and found.high - found.low <= 2 * PRECISION * found.milliseconds
                if enough or sum(seconds) >= most_seconds:
                    return found


def summary(seconds: list[float]) -> Latency:
    """The median of some times with its 95 % interval, which holds whatever their distribution."""
    ordered = sorted(1000 * each for each in seconds)
    count = len(ordered)
    middle = ordered[count // 2] if count % 2 else (ordered[count // 2 - 1] + ordered[count // 2]) / 2
    reach = NORMAL_95 * math.sqrt(count) / 2
    low = ordered[max(0, math.floor(count / 2 - reach))]
    high = ordered[min(count - 1, math.ceil(count / 2 + reach))]
    return Latency(middle, low, high, count)


def _forward_seconds(model: nn.Module, images: Tensor) -> float:
    started = time.perf_counter()
    model(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started


class OtherWork:
    """Tells how many CPU cores of this machine other processes kept busy since it was made."""

    def __init__(self) -> None:
        """Begin to watch."""
        self.busy, self.own, self.started = busy_seconds(), time.process_time(), time.monotonic()

    def cores(self) -> float | None:
        """The mean number of cores; None where the system does not tell."""
        busy, elapsed = busy_seconds(), time.monotonic() - self.started
        if busy is None or self.busy is None or elapsed <= 0:
            return None
        others = busy - self.busy - (time.process_time() - self.own)
        return max(0.0, others / elapsed)


def busy_seconds() -> float | None:
    """Seconds for which the cores of this machine have been at work since it started, all cores together; None where
    the system does not tell."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _idle, _waiting, *interrupts = map(int, file.readline().split()[1:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def other_gpu_processes(device: torch.device) -> int | None:
    """How many processes besides this one use a GPU now, as `nvidia-smi` lists them; None where it does not tell: where
    there is no such command, or where it does not see this process, as in most containers."""
    query = ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    processes = {int(pid) for pid, _, gpu in (line.partition(",") for line in listed.splitlines()) if uuid in gpu}
    return len(processes) - 1 if os.getpid() in processes else None
