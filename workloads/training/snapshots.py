"""Trainings that can go on where they were: what has happened so far, and everything that the rest depends on."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from workloads.measuring.evaluation import Measurement
from workloads.networks.checkpoints import digest


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images.

    Attributes:
        epoch: 1, 2, ….
        learning_rate: at the end of the epoch.
        train_loss: mean of what the training brings down, of the augmented images while they were learnt.
        train_accuracy: percent top-1, likewise.
        test: the measurement after the epoch, or None where none was due.
        seconds: wall clock of the training alone.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test: Measurement | None
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """A training after some of its epochs.

    Attributes:
        history: the epochs so far.
        tensors: weights and buffers, what the optimizer remembers, an average of the weights where there is one, and
            the states of the random numbers.
    """

    history: tuple[Epoch, ...]
    tensors: dict[str, Tensor]

    @classmethod
    def take(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        history: Sequence[Epoch],
        average: nn.Module | None = None,
    ) -> "Snapshot":
        """Copy the state of a training."""
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        if average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
        for number, remembered in optimizer.state_dict()["state"].items():
            for name, value in remembered.items():
                if value is not None:  # such as the momentum of SGD without any
                    tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
        tensors["generator"] = generator.get_state()
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        if next(model.parameters()).device.type == "mps":
            tensors["random.mps"] = torch.mps.get_rng_state()
        return cls(tuple(history), {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of `model`, `average` or `optimizer`, by the rest of their names."""
        return {key.removeprefix(f"{name}."): t for key, t in self.tensors.items() if key.startswith(f"{name}.")}

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        average: nn.Module | None = None,
    ) -> list[Epoch]:
        """Put the state back, in place; the epochs so far."""
        model.load_state_dict(self.part("model"))
        if average is not None:
            average.load_state_dict(self.part("average"))
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in self.part("optimizer").items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = tensor.clone()  # the optimizer counts steps in place
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, remembered in optimizer.state.items():  # in the order in memory of the weights, as they were
            for name, value in remembered.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    remembered[name] = torch.empty_like(parameter).copy_(value)
        generator.set_state(self.tensors["generator"])
        torch.set_rng_state(self.tensors["random"])
        if "random.cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["random.cuda"])
        if "random.mps" in self.tensors and torch.backends.mps.is_available():
            torch.mps.set_rng_state(self.tensors["random.mps"])
        return list(self.history)

    def dumps(self) -> bytes:
        """The snapshot as safetensors with the epochs and a checksum in its header."""
        history = json.dumps([asdict(epoch) for epoch in self.history])
        header = {"history": history, "sha256": digest(self.tensors, history)}
        return safetensors.torch.save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, header)

    @classmethod
    def loads(cls, content: bytes) -> "Snapshot":
        """The snapshot from its bytes.

        Raises:
            ValueError: the bytes are no snapshot, or damaged.
        """
        try:
            header_size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + header_size])["__metadata__"]
            tensors = safetensors.torch.load(content)
            if header["sha256"] != digest(tensors, header["history"]):
                raise ValueError("it does not match its checksum")
            return cls(tuple(_epoch(row) for row in json.loads(header["history"])), tensors)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"this is not the snapshot of a training, or it is damaged ({error})") from error


def _epoch(row: dict[str, Any]) -> Epoch:
    return Epoch(**{**row, "test": row["test"] and Measurement(**row["test"])})
