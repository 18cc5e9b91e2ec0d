"""Forward passes of two networks over many batches that advance together, layer by layer.

Solving a layer needs what it reads and makes on all images, and what runs after it needs the solution. So every pass
has to stop at each layer. A pass runs in a thread of its own that waits in a hook of the layer, one thread at a time;
what lives then is what the network itself still needs. Where that is too much for the memory, or a layer runs several
times in a pass, every layer has the passes run again from the start.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from workloads.compression.calls import Call
from workloads.compression.compensation.summands import Course, Keeping
from workloads.structure.layers import get_layer

_running = threading.local()


class Seen(NamedTuple):
    """A call of a layer within a pass.

    Attributes:
        call: which one.
        input: what the layer reads.
        output: what it makes; None where the pass stops before it runs.
        summand: what the output is added to, where that is there already.
    """

    call: Call
    input: Tensor
    output: Tensor | None
    summand: Tensor | None

    def cloned(self) -> "Seen":
        """A copy that what comes later in the pass does not change."""
        output, summand = (None if x is None else x.clone() for x in (self.output, self.summand))
        return Seen(self.call, self.input.clone(), output, summand)


class _Ended(BaseException):
    """Ends a pass before its end; not an Exception, which a network might catch."""


class Side:
    """One of the two networks, with hooks on the layers at which its passes stop.

    Args:
        model: the network.
        course: that its passes take, with the calls at which they stop.
        after: whether they stop once a layer has run, or before it does.
    """

    def __init__(self, model: nn.Module, course: Course, *, after: bool):
        self.model, self.course, self.after = model, course, after

    def __enter__(self) -> "Side":
        self.hooks = ExitStack()
        for name in dict.fromkeys(call.layer for call in self.course.calls):
            layer = get_layer(self.model, name)
            self.hooks.callback(layer.register_forward_pre_hook(self._before(name), with_kwargs=True).remove)
            if self.after:
                self.hooks.callback(layer.register_forward_hook(self._after(name), prepend=True).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.close()

    def _before(self, name: str) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            running: Pass | None = getattr(_running, "value", None)
            if running is None or running.side is not self:
                return None
            other = running.begin(name, args[0] if args else kwargs["input"])
            return None if other is None else ((other, *args[1:]), {k: v for k, v in kwargs.items() if k != "input"})

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            running: Pass | None = getattr(_running, "value", None)
            if running is not None and running.side is self:
                running.end(name, output)

        return hook


class Pass:
    """One forward pass, which reports the calls of its side's layers.

    Args:
        side: the network.
        images: (B, C, H, W).
        report: what is called with each of them; before a layer runs, it may return what that is to read instead.
    """

    def __init__(self, side: Side, images: Tensor, report: Callable[[Seen], Tensor | None]):
        self.side, self.images, self.report = side, images, report
        self.calls: Counter[str] = Counter()
        self.inputs: dict[str, Tensor] = {}

    def run(self) -> None:
        """Run it in this thread, to its end or that of what is reported."""
        summands = self.side.course.summands
        self.keeping = Keeping(self.images, summands)
        _running.value = self
        try:
            with torch.no_grad(), self.keeping if summands else nullcontext():
                self.side.model.eval()(self.images)
        except _Ended:
            pass
        finally:
            _running.value = None

    def begin(self, name: str, given: Tensor) -> Tensor | None:
        """A layer is about to run; what it is to read instead of what is given, if anything."""
        if self.side.after:
            self.inputs[name] = given
            return None
        return self.tell(name, given, None)

    def end(self, name: str, output: Tensor) -> None:
        """A layer has run."""
        self.tell(name, self.inputs.pop(name), output)

    def tell(self, name: str, given: Tensor, output: Tensor | None) -> Tensor | None:
        """Report a call."""
        call = Call(name, self.calls[name])
        self.calls[name] += 1
        self.keeping.muted = True
        other = self.report(Seen(call, given, output, self.keeping.summand(call)))
        self.keeping.muted = False
        return other


class WaitingPass:
    """A pass in a thread of its own, which waits at each call until it is told to go on."""

    def __init__(self, side: Side, images: Tensor):
        self.of = Pass(side, images, self._wait)
        self.threads = torch.get_num_threads()
        self.going, self.waiting = threading.Semaphore(0), threading.Semaphore(0)
        self.seen: Seen | None = None
        self.error: BaseException | None = None
        self.ended = False
        self.instead: Tensor | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.going.acquire()
        images = self.of.images
        try:
            if not self.ended:
                torch.set_num_threads(self.threads)  # which OpenMP counts for each thread
                with torch.cuda.device(images.device) if images.is_cuda else nullcontext():
                    self.of.run()
        except BaseException as error:
            self.error = error
        finally:
            self.seen, self.ended = None, True
            self.waiting.release()

    def _wait(self, seen: Seen) -> Tensor | None:
        self.seen, self.instead = seen, None
        self.waiting.release()
        self.going.acquire()
        if self.ended:
            raise _Ended
        return self.instead

    def advance(self) -> Seen:
        """Run to the next call.

        Raises:
            ValueError: there is none, or the network fails.
        """
        if not self.thread.ident:
            self.thread.start()
        self.going.release()
        self.waiting.acquire()
        if self.seen is None:
            raise ValueError("a pass over calibration images ended before all layers ran") from self.error
        return self.seen

    def end(self) -> None:
        """End it where it is."""
        self.ended, self.seen = True, None
        if self.thread.ident:
            self.going.release()
            self.thread.join()


class Advancing(Protocol):
    """A pass that goes from call to call."""

    def advance(self) -> Seen:
        """Go to the next call."""
        ...

    def end(self) -> None:
        """End where it is."""
        ...


def waiting_passes(side: Side, batches: Sequence[Tensor]) -> list[WaitingPass]:
    """A pass for each batch."""
    return [WaitingPass(side, batch) for batch in batches]


Pair = tuple[int, Seen, Seen]
"""The number of a batch, and a call of a layer on it in the original and in the narrowed network."""


class Passes(Protocol):
    """The passes of both networks over all batches."""

    def at(self, layer: str) -> Iterator[Pair]:
        """All calls of a layer on all batches; layers in running order, each once its predecessors are solved."""
        ...

    def replace(self, inputs: Mapping[int, Tensor]) -> None:
        """Let the layer at hand read something else in the narrowed network, by batch: what leads to it has changed."""
        ...

    def close(self) -> None:
        """End them."""
        ...


class Lockstep:
    """All passes wait at a layer; none of them runs twice. Every layer runs once in a pass."""

    def __init__(self, originals: Sequence[Advancing], narrowed: Side, batches: Sequence[Tensor]):
        changed = (WaitingPass(narrowed, batch) for batch in batches)
        self.pairs = list(zip(originals, changed, strict=True))

    def at(self, layer: str) -> Iterator[Pair]:
        for number, passes in enumerate(self.pairs):
            original, narrowed = (each.advance() for each in passes)
            if original.call.layer != layer or narrowed.call.layer != layer:
                raise ValueError(f"layer '{layer}' did not run in its turn on calibration images")
            yield number, original, narrowed

    def replace(self, inputs: Mapping[int, Tensor]) -> None:
        for number, given in inputs.items():
            self.pairs[number][1].instead = given

    def close(self) -> None:
        for passes in self.pairs:
            for each in passes:
                each.end()


class Rerunning:
    """The passes run from the start for each layer, in memory that does not grow with the number of images."""

    def __init__(self, original: Side, narrowed: Side, batches: Sequence[Tensor]):
        self.sides, self.batches = (original, narrowed), batches
        self.counts = Counter(call.layer for call in original.course.calls)

    def at(self, layer: str) -> Iterator[Pair]:
        for number, batch in enumerate(self.batches):
            original, narrowed = (seen_in_pass(side, batch, layer, self.counts[layer]) for side in self.sides)
            if len(original) != len(narrowed):
                raise ValueError(f"layer '{layer}' ran {len(original)} and {len(narrowed)} times on the same images")
            yield from ((number, *both) for both in zip(original, narrowed, strict=True))

    def replace(self, inputs: Mapping[int, Tensor]) -> None:
        pass  # the next passes run through the changed layers anyway

    def close(self) -> None:
        pass


def seen_in_pass(side: Side, images: Tensor, layer: str, count: int) -> list[Seen]:
    """The first calls of a layer in a pass, which then ends."""
    found: list[Seen] = []

    def report(seen: Seen) -> None:  # returns None: nothing is read instead
        if seen.call.layer == layer:
            last = len(found) == count - 1
            found.append(seen if last else seen.cloned())
            if last:
                raise _Ended

    Pass(side, images, report).run()
    return found


def passes_over(
    original: Side,
    narrowed: Side,
    batches: Sequence[Tensor],
    memory: float,
    passes_of_original: Callable[[Side, Sequence[Tensor]], Sequence[Advancing]] = waiting_passes,
) -> Passes:
    """The passes in lockstep if every layer runs once and what lives meanwhile fits into `memory` bytes.

    Args:
        original, narrowed: the networks.
        batches: (B, C, H, W).
        memory: of what lives in all passes.
        passes_of_original: makes those of the original that wait.
    """
    once = max(Counter(call.layer for call in original.course.calls).values(), default=0) == 1
    needed = sum(side.course.bytes_per_image for side in (original, narrowed)) * sum(map(len, batches))
    if once and needed <= memory and _order(original.course.calls) == _order(narrowed.course.calls):
        return Lockstep(passes_of_original(original, batches), narrowed, batches)
    return Rerunning(original, narrowed, batches)


def _order(calls: Sequence[Call]) -> list[str]:
    return [call.layer for call in calls]
