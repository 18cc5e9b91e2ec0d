"""Networks in formats that other programs run. A written file is read back and run before it counts."""

import contextlib
import importlib.util
import io
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from workloads.messages import first_line
from workloads.networks import checkpoints
from workloads.networks.checkpoints import Description
from workloads.plugins import nearest
from workloads.structure.copying import copied
from workloads.structure.logits import unwrapped

CHECKED_BATCHES = (1, 3)
TOLERANCE, SMALLEST_TOLERANCE = 1e-4, 1e-6
Network = Callable[[Tensor], Tensor]


class ExportError(RuntimeError):
    """A network that cannot be exported, or whose file computes something else."""


@dataclass(frozen=True)
class Format:
    """How a network is written and read back.

    Attributes:
        suffix: of the file's name, with its dot.
        write: network, description and two example images to the file's content.
        read: the file's content to a function from images (B, C, H, W) to logits.
        packages: what it needs besides metaprune's own dependencies.
    """

    suffix: str
    write: Callable[[nn.Module, Description, Tensor], bytes]
    read: Callable[[bytes], Network]
    packages: tuple[str, ...] = ()


def format_named(name: str, *others: str) -> Format:
    """A format by its name; `others` are named beside those there are.

    Raises:
        ValueError: there is no such format, or it needs packages that are not installed.
    """
    if name not in FORMATS:
        raise ValueError(
            f"unknown export format '{name}'{nearest(name, FORMATS)} Known: {', '.join([*FORMATS, *others])}"
        )
    lacking = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
    if lacking:
        raise ValueError(
            f"format '{name}' needs {', '.join(lacking)}: python -m pip install {' '.join(FORMATS[name].packages)}"
        )
    return FORMATS[name]


def export(model: nn.Module, description: Description, shape: tuple[int, int, int], name: str, path: Path) -> float:
    """Write a network so that `path` holds a file that was run and gave the network's logits, or what it held before.

    Args:
        model: copied to the CPU, in PyTorch's usual layout, which torch.export can store.
        description: what the network is, for our own format.
        shape: (C, H, W) of its images; the number of images stays free.
        name: a format of `FORMATS`.
        path: of the file; one that is there is replaced.

    Returns:
        The largest absolute difference of logits, on random images in batches of `CHECKED_BATCHES`.

    Raises:
        ValueError: no such format, or a package is missing.
        OSError: the file cannot be written.
        ExportError: the format cannot express the network, or logits differ by more than `TOLERANCE` of the largest.
    """
    chosen = format_named(name)
    model = copied(unwrapped(model)).cpu().eval().to(memory_format=torch.contiguous_format)
    with whole_file(path) as temporary:
        try:
            with quietly():
                content = chosen.write(model, description, torch.zeros(2, *shape))
        except Exception as error:
            raise ExportError(f"the network cannot be written as {name} ({first_line(error)})") from error
        temporary.write_bytes(content)
        try:
            difference, largest = compare(model, chosen.read(temporary.read_bytes()), shape)
        except Exception as error:
            raise ExportError(f"the network written as {name} does not run ({first_line(error)})") from error
        if not agree(difference, largest):
            raise ExportError(
                f"the network written as {name} computes something else: logits up to {largest:.3g} differ by "
                f"{difference:.3g}"
            )
    return difference


@torch.no_grad()
def compare(model: Network, other: Network, shape: tuple[int, int, int]) -> tuple[float, float]:
    """The largest difference of two networks' logits on the same random images, and the first one's largest logit.

    Raises:
        ValueError: their outputs have different shapes.
    """
    generator = torch.Generator().manual_seed(0)
    differences, sizes = [], []
    for batch in CHECKED_BATCHES:
        images = torch.randn(batch, *shape, generator=generator)
        expected, found = model(images), other(images)
        if found.shape != expected.shape:
            raise ValueError(f"its output is {tuple(found.shape)}, not {tuple(expected.shape)}")
        differences.append((found - expected).abs().max())
        sizes.append(expected.abs().max())
    return float(torch.stack(differences).max()), float(torch.stack(sizes).max())


def why_not_exportable(model: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """Why torch.export cannot express a network, or expresses something else; None where it can. Writes nothing.

    Args:
        model: in evaluation mode; not changed.
        shape: (C, H, W) of its images.
    """
    model = copied(unwrapped(model)).cpu().eval()
    try:
        with quietly():
            program = _program(model, torch.zeros(2, *shape))
        difference, largest = compare(model, program.module(), shape)
    except Exception as error:
        return first_line(error)
    return None if agree(difference, largest) else f"what it exports gives logits that differ by {difference:.3g}"


def agree(difference: float, largest: float) -> bool:
    """Whether logits are equal but for rounding, given their largest difference and the largest of them."""
    return difference <= max(SMALLEST_TOLERANCE, TOLERANCE * largest)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what PyTorch prints and logs of a network that it cannot express, whole graphs, from the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the block ends well and removed if not.

    Raises:
        OSError: neither can be written; names `path`.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"'{path}' cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _any_batch() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _write_safetensors(model: nn.Module, description: Description, images: Tensor) -> bytes:
    return checkpoints.dumps(model, description)


def _read_safetensors(content: bytes) -> Network:
    return checkpoints.loads(content, "the written file")[0]


def _program(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(model, (images,), dynamic_shapes=_any_batch())


def _write_torch_export(model: nn.Module, description: Description, images: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(model, images), buffer)
    return buffer.getvalue()


def _read_torch_export(content: bytes) -> Network:
    return torch.export.load(io.BytesIO(content)).module()


def _write_onnx(model: nn.Module, description: Description, images: Tensor) -> bytes:
    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        dynamic_shapes=_any_batch(),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _read_onnx(content: bytes) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


FORMATS: dict[str, Format] = {
    "safetensors": Format(".safetensors", _write_safetensors, _read_safetensors),
    "torch-export": Format(".pt2", _write_torch_export, _read_torch_export),
    "onnx": Format(".onnx", _write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
}
