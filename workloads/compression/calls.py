"""What single layers read and make while a network runs, call by call, and which of it belongs to which image.

A layer may run several times in one pass, on other inputs each time (a residual step in a loop, a head on several
maps), and the rows of what it makes need not be the images: attention often runs on (tokens, images, channels), windows
make several rows of an image, and a layer that computes a position bias sees no image at all. So whatever is recorded
here is recorded by call, and where the images are is found by trying.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workloads.structure.layers import SILENT, get_layer


class Call(NamedTuple):
    """One call of a layer within a pass; `number` is 0 for the layer's first."""

    layer: str
    number: int


Tap = Callable[[Call, nn.Module, Tensor], Tensor | None]


def run_tapped(
    model: nn.Module,
    images: Tensor,
    *,
    inputs: Mapping[str, Tap] | None = None,
    outputs: Mapping[str, Tap] | None = None,
) -> Tensor:
    """The network's output in evaluation mode, while taps see what single layers read and make; see `tapped`."""
    with tapped(model, inputs=inputs, outputs=outputs) as run:
        return run(images)


@contextmanager
def tapped(
    model: nn.Module, *, inputs: Mapping[str, Tap] | None = None, outputs: Mapping[str, Tap] | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """A block in which taps see what single layers read and make.

    A tap sees a tensor before anything overwrites it, and has to copy what it keeps: what comes next may work in place.
    Gradients are to be taken in the block where a tap changes what a layer makes: a network that computes some of its
    activations again on the way back (`torch.utils.checkpoint`) then meets the taps again.

    Args:
        model: the network.
        inputs: by layer, called as `tap(call, layer, input)` before the layer runs.
        outputs: by layer, called as `tap(call, layer, output)` once it has run; what a tap returns, if not None, takes
            the output's place.

    Yields:
        A function that returns the network's output for images (B, C, H, W), in evaluation mode; ValueError where a
        layer did not run at all, so that there is nothing to see.
    """
    begun, ended = Calls(), Calls()

    def before(name: str, tap: Tap) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tap(begun.next(name), layer, args[0] if args else kwargs["input"])

        return hook

    def after(name: str, tap: Tap) -> Callable[..., Tensor | None]:
        return lambda layer, args, output: tap(ended.next(name), layer, output)

    def run(images: Tensor) -> Tensor:
        begun.start()
        ended.start()
        result: Tensor = model.eval()(images)
        begun.finish()
        ended.finish()
        for name in (inputs or {}).keys() - begun.numbers.keys() | (outputs or {}).keys() - ended.numbers.keys():
            raise ValueError(f"layer '{name}' did not run on these images, though it ran when the network was examined")
        return result

    silent = SilentLayers()
    with ExitStack() as hooks:
        for name, tap in (inputs or {}).items():
            layer, hook = get_layer(model, name), before(name, tap)
            if SILENT in vars(layer):
                silent.before[layer.weight] = layer, hook
            else:
                hooks.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        for name, tap in (outputs or {}).items():
            layer, made = get_layer(model, name), after(name, tap)
            if SILENT in vars(layer):
                silent.after[layer.weight] = layer, made
            else:
                hooks.enter_context(layer.register_forward_hook(made))
        if silent.before or silent.after:
            hooks.enter_context(silent)
        yield run


class Calls:
    """Numbers the calls of each layer in a pass; what runs again after the pass has the numbers that it had in it.

    Attributes:
        numbers: of the next call, by layer.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A pass begins."""
        self.numbers: dict[str, int] = {}
        self.of_pass: dict[str, int] = {}

    def finish(self) -> None:
        """It has ended."""
        self.of_pass = dict(self.numbers)

    def next(self, name: str) -> Call:
        """The call of a layer that runs now."""
        number = self.numbers.get(name, 0)
        self.numbers[name] = number + 1
        return Call(name, number % self.of_pass.get(name, number + 1))


class SilentLayers(TorchFunctionMode):
    """Calls hooks of linear layers that do not run by themselves, since another module uses their weights.

    Attributes:
        before, after: by weight, the layer and its hook on what it reads, and on what it makes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[Tensor, tuple[nn.Module, Callable[..., None]]] = {}
        self.after: dict[Tensor, tuple[nn.Module, Callable[..., Tensor | None]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is not nn.functional.linear:
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **(kwargs or {})}
        tensor, weight = given["input"], given["weight"]
        if weight in self.before:
            layer, hook = self.before[weight]
            hook(layer, (tensor,), {})
        result = func(*args, **(kwargs or {}))
        if weight in self.after:
            layer, made = self.after[weight]
            changed = made(layer, (tensor,), result)
            result = result if changed is None else changed
        return result


def channel_dim(layer: nn.Module) -> int:
    """The dimension, counted from the end, of the channels that a layer reads and makes: images may lack one."""
    sizes: tuple[int, ...] = getattr(layer, "kernel_size", ())  # of convolutions, which have positions behind it
    return -1 - len(sizes)


def by_channel(layer: nn.Module, tensor: Tensor) -> Tensor:
    """What a layer reads or makes as (images and positions, channels)."""
    channels_last: Tensor = tensor.movedim(channel_dim(layer), -1)
    return channels_last.reshape(-1, channels_last.shape[-1])


class ImageRows(NamedTuple):
    """Where the images are in a tensor: row r along `dim` belongs to image r // inner % images."""

    dim: int
    inner: int


def by_image(layer: nn.Module, output: Tensor, images: int, rows: ImageRows | None) -> Tensor:
    """What a layer makes as (images, positions, channels); `rows` is None where all of it is of one image."""
    if rows is None:
        return by_channel(layer, output).unsqueeze(0)
    channels = output.ndim + channel_dim(layer)
    dim = rows.dim - (channels < rows.dim)
    apart = output.movedim(channels, -1).unflatten(dim, (-1, images, rows.inner)).movedim(dim + 1, 0)
    together: Tensor = apart.reshape(-1, output.shape[channels]).unflatten(0, (images, -1))
    return together


def per_image(values: Tensor, layer: nn.Module, output: Tensor, rows: ImageRows | None) -> Tensor:
    """(images, channels) values in a shape that broadcasts over what a layer makes; `rows` as for `by_image`."""
    shape, channels = [1] * output.ndim, output.ndim + channel_dim(layer)
    shape[channels] = values.shape[1]
    if rows is None:
        return values.view(shape)
    shape[rows.dim] = output.shape[rows.dim]
    values = values.repeat_interleave(rows.inner, 0).repeat(shape[rows.dim] // (rows.inner * len(values)), 1)
    return (values if rows.dim < channels else values.T).reshape(shape)


class ImageBatch(NamedTuple):
    """Labelled images, and for each call of some layers where the images are in its output; None if they are one."""

    images: Tensor
    labels: Tensor
    rows: Mapping[Call, ImageRows] | None

    def rows_of(self, call: Call) -> ImageRows | None:
        """Where the images are in what a call makes."""
        return self.rows[call] if self.rows is not None else None


def image_batches(
    model: nn.Module, layers: Collection[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[ImageBatch]:
    """The batches, so that it is known which part of what the layers make belongs to which image.

    Where a layer's output cannot be taken apart, every image comes alone: all is its own then, a position bias that is
    the same for every image included.
    """
    rows: Mapping[Call, ImageRows] | None = None
    for number, (images, labels) in enumerate(batches):
        if number == 0:
            rows = image_rows(model, layers, images)
        if rows is not None:
            yield ImageBatch(images, labels, rows)
        else:
            for image, label in zip(images.split(1), labels.split(1), strict=True):
                yield ImageBatch(image, label, None)


@torch.no_grad()
def image_rows(model: nn.Module, layers: Collection[str], images: Tensor) -> dict[Call, ImageRows] | None:
    """Where the images are in what each call of the layers makes, or None if it is not clear for one of them.

    Three images made of noise run through the network twice, with another one in the middle: what changes is of that
    image. `images` give the shape.
    """
    generator = torch.Generator().manual_seed(0)
    if images.is_floating_point():
        noise = torch.randn(4, *images.shape[1:], generator=generator).to(images)
    else:  # numbers that occur, as those of words or of colours have to
        chosen_values = torch.randint(images.numel(), (4, *images.shape[1:]), generator=generator)
        noise = images.flatten()[chosen_values.to(images.device)]
    seen: list[dict[Call, tuple[int, Tensor]]] = []
    for chosen in ([0, 1, 2], [0, 3, 2]):
        outputs: dict[Call, tuple[int, Tensor]] = {}

        def keep(call: Call, layer: nn.Module, output: Tensor, outputs: dict[Call, Any] = outputs) -> None:
            outputs[call] = output.ndim + channel_dim(layer), output.clone()

        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.manual_seed(0)  # for layers that draw in evaluation mode too
            run_tapped(model, noise[chosen], outputs=dict.fromkeys(layers, keep))
        seen.append(outputs)
    found: dict[Call, ImageRows] = {}
    for call, (channels, first) in seen[0].items():
        _, second = seen[1].get(call, (channels, first))
        places = middle_image(first, second, channels) if first.shape == second.shape else []
        if len(places) != 1:
            return None
        found[call] = places[0]
    return found


def middle_image(first: Tensor, second: Tensor, channels: int) -> list[ImageRows]:
    """Where the images may be if only the middle one of three differs between two tensors; empty where none does."""
    places = []
    for dim, size in enumerate(first.shape):
        if dim == channels or size % 3:
            continue
        changed = (first != second).movedim(dim, 0).flatten(1).any(1).cpu()
        for inner in (inner for inner in range(1, size // 3 + 1) if size // 3 % inner == 0):
            middle = torch.arange(size) // inner % 3 == 1
            if bool(changed.any()) and not bool((changed & ~middle).any()):
                places.append(ImageRows(dim, inner))
    return places


class CallMoments:
    """Mean and deviation a channel of the outputs of layers, for each of their calls, over all passes; float64."""

    def __init__(self) -> None:
        self.sums: dict[str, list[list[Tensor]]] = {}

    def add(self, call: Call, values: Tensor) -> None:
        """Add (samples, channels) to a call's count, sums and sums of squares."""
        values = values.double()
        parts = [torch.tensor(float(len(values))), values.sum(0).cpu(), values.square().sum(0).cpu()]
        calls = self.sums.setdefault(call.layer, [])
        if call.number < len(calls):
            calls[call.number] = [a + b for a, b in zip(calls[call.number], parts, strict=True)]
        else:
            calls.append(parts)

    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and deviation, each (calls, channels), by layer."""
        return {
            layer: tuple(map(torch.stack, zip(*(moments(*parts) for parts in calls), strict=True)))  # type: ignore[misc]
            for layer, calls in self.sums.items()
        }


def moments(count: Tensor, sums: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation from a count, sums and sums of squares."""
    mean = sums / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


def output_moments(
    model: nn.Module, layers: Iterable[str], images: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation a channel of the outputs of some layers, over all images and positions.

    Returns:
        By layer, mean and deviation, each (calls, channels) float64: a row for each time that the layer runs in a pass.
    """
    seen = CallMoments()

    def record(call: Call, layer: nn.Module, output: Tensor) -> None:
        seen.add(call, by_channel(layer, output))

    run_all(model, images, dict.fromkeys(layers, record))
    return seen.statistics()


@torch.inference_mode()
def run_all(model: nn.Module, images: Iterable[Tensor], outputs: Mapping[str, Tap]) -> None:
    """Run batches of images through the network for what the taps on its layers' outputs see."""
    for batch in images:
        run_tapped(model, batch, outputs=outputs)
