"""Training one network in several processes, each of which learns its part of every batch (data parallelism).

Together they compute what one process would, up to rounding: a step follows the mean gradient of the whole batch,
which `DistributedDataParallel` makes; batch-norm normalises by the statistics of the whole batch; augmentation and
mixing draw as for the whole batch, and each process takes the rows that are its own. Only layers that draw, such as
dropout, draw something else in each process.

What processes draw from PyTorch's CPU generator in the open is therefore the same in all of them; layers draw within
`Divided.batch` from numbers that are each process's own.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from workloads.data.augmentation import Rows
from workloads.training.snapshots import Snapshot

PATIENCE = timedelta(hours=6)  # for the process that measures between two epochs; whoever started them sees one die


@dataclass(frozen=True)
class Rank:
    """One of the processes that train a network together, or the only one.

    Attributes:
        number: 0, 1, …; the first one measures, and takes snapshots.
        count: of all processes.
    """

    number: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that measures and takes snapshots."""
        return self.number == 0

    def divides(self, images: int) -> bool:
        """Whether a batch is divided; one of fewer images than processes is learnt whole by each."""
        return images >= self.count > 1

    def rows(self, images: int, size: int, *, mixed: bool) -> list[Rows]:
        """Of every batch of `images` in an order, `size` at a time, the rows that this process learns.

        Args:
            mixed: whether each image is mixed with the one before it in its batch, which then stands before the others.
        """
        found = []
        for start in range(0, images, size):
            count = min(size, images - start)
            own = torch.arange(count)
            if self.divides(count):
                own = own.tensor_split(self.count)[self.number]
                if mixed:
                    own = torch.cat([(own[:1] - 1) % count, own])
            found.append(Rows(start, count, own))
        return found

    def shared(self, snapshot: Snapshot | None) -> Snapshot | None:
        """The snapshot that the first process has, if it has one."""
        if self.count == 1:
            return snapshot
        content = snapshot.dumps() if snapshot and self.leads else b""
        size = torch.tensor(len(content))
        dist.broadcast(size, 0)
        if not size:
            return None
        tensor = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.leads else torch.empty(int(size)).byte()
        )
        dist.broadcast(tensor, 0)
        return snapshot if self.leads else Snapshot.loads(tensor.numpy().tobytes())

    def draw_alike(self) -> None:
        """Let all processes draw from PyTorch's CPU generator what the first one draws."""
        if self.count > 1:
            state = torch.get_rng_state()
            dist.broadcast(state, 0)
            torch.set_rng_state(state)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def learner(self, model: nn.Module, seed: int, epoch: int) -> "Alone | Divided":
        """The network as this process runs it in an epoch, after its weights are in the state in which they learn."""
        return Divided(model, self, seed, epoch) if self.count > 1 else Alone(model)


ALONE = Rank()


class Alone:
    """A network that one process trains.

    Attributes:
        network: what is called with images.
    """

    def __init__(self, model: nn.Module):
        self.network: nn.Module = model

    def batch(self, images: int, *, steps: bool) -> contextlib.AbstractContextManager[None]:
        """A block in which a batch goes forward and back."""
        return contextlib.nullcontext()


class Divided(Alone):
    """A network that several processes train, in one of them, for an epoch.

    At its start all have the weights and buffers of the first process.

    Attributes:
        drawn: state of the random numbers that layers draw from on a CPU.
    """

    def __init__(self, model: nn.Module, rank: Rank, seed: int, epoch: int):
        self.rank = rank
        self.parallel = DistributedDataParallel(model, find_unused_parameters=True)
        self.network = self.parallel
        own = hashlib.sha256(f"{seed} {epoch} {rank.number}".encode()).digest()
        number = int.from_bytes(own[:7])
        self.drawn = torch.Generator().manual_seed(number).get_state()
        if next(model.parameters()).is_cuda:
            torch.cuda.manual_seed(number)

    @contextlib.contextmanager
    def batch(self, images: int, *, steps: bool) -> Iterator[None]:
        """A block in which this process's part of a batch goes forward and back.

        Args:
            images: of the whole batch.
            steps: whether the weights change after it; only then gradients are summed over the processes.
        """
        alike = torch.get_rng_state()
        torch.set_rng_state(self.drawn)
        try:
            with contextlib.ExitStack() as stack:
                if not steps:
                    stack.enter_context(self.parallel.no_sync())
                if self.rank.divides(images):
                    stack.enter_context(WholeBatchNorm())
                yield
        finally:
            self.drawn = torch.get_rng_state()
            torch.set_rng_state(alike)


class WholeBatchNorm(TorchFunctionMode):
    """Lets batch-norm normalise by the statistics of the images in all processes, whichever layer calls it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return (whole_batch_norm if function is F.batch_norm else function)(*args, **kwargs)


def whole_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of (B, C, …), where it trains by the statistics over all processes.

    Sums are taken of differences from the running mean, so that they lose no digits where the deviation is small beside
    the mean.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    shape = (1, -1, *(1,) * (input.ndim - 2))
    origin = torch.zeros(input.shape[1], device=input.device) if running_mean is None else running_mean.float()
    values = input.float() - origin.view(shape)
    dims = [dim for dim in range(input.ndim) if dim != 1]
    count = values.new_tensor([values.numel() // values.shape[1]])
    sums: Tensor = SumOverProcesses.apply(torch.cat([values.sum(dims), values.square().sum(dims), count]))
    first, second, count = sums.split([len(origin), len(origin), 1])
    mean = first / count
    variance = (second / count - mean.square()).clamp_min(0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            running_mean.lerp_((mean + origin).to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    normalised: Tensor = values * scale.view(shape) + shift.view(shape)
    return normalised.to(input.dtype)


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes, each of which gets the gradients of all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


@contextlib.contextmanager
def process_group(store: Store, number: int, count: int, device: torch.device) -> Iterator[Rank]:
    """Be one of the processes that train together, for the length of a block; NCCL joins GPUs, gloo CPUs.

    Args:
        store: where they find each other.
        number, count: of the process, and of all of them.
        device: of the weights.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    yield Rank(number, count)
    dist.destroy_process_group()  # not after an error, where it could wait for the others: the process ends
