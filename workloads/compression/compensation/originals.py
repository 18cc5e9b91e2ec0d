"""What the original makes of the calibration images, kept for its next compression: a grid needs one pass of it.

The cells of a grid compress the same network on the same images to other widths, by other methods. Each of them has a
narrowed network of its own, but the original's calls are the same.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from workloads.compression.compensation.passes import Seen, Side, WaitingPass
from workloads.compression.covariances import digest

KEPT = 2**30  # bytes, of all that is kept

Record = dict[int, list[Seen]]
"""By number of a batch, the calls of its pass."""


@dataclass
class Originals:
    """Passes of one network at a time, in at most so many bytes; what does not fit runs again.

    Attributes:
        memory: how many bytes.
        records: by images and calls.
        size: bytes that are kept.
    """

    memory: float = KEPT
    records: dict[Hashable, Record] = field(default_factory=dict)
    _model: nn.Module | None = None
    _state: Hashable = None
    size: int = 0

    def passes(self, side: Side, batches: Sequence[Tensor]) -> list["OriginalPass"]:
        """The passes of a network over batches (B, C, H, W), which stop at each call; those that are kept do not run.

        Only passes of unchanged weights are kept. PyTorch does not count the changes of tensors made in inference mode.
        """
        tensors = [*side.model.parameters(), *side.model.buffers()]
        if any(tensor.is_inference() for tensor in tensors):
            return [OriginalPass(WaitingPass(side, batch)) for batch in batches]
        state = tuple((id(tensor), tensor._version) for tensor in tensors)
        if self._model is not side.model or self._state != state:
            self.records.clear()
            self._model, self._state, self.size = side.model, state, 0
        course = side.course
        key = digest(batches), tuple(map(len, batches)), course.calls, frozenset(course.summands.items())
        record = self.records.pop(key, {})
        for number in [number for number, calls in record.items() if len(calls) < len(course.calls)]:
            self._drop(record, number)  # its pass failed
        kept = dict(record)
        self.records[key] = record  # the latest is the last to go
        record.update({number: [] for number in range(len(batches)) if number not in kept})
        return [
            OriginalPass(WaitingPass(side, batch), kept.get(number, ()), partial(self._keep, record, number))
            for number, batch in enumerate(batches)
        ]

    def _keep(self, record: Record, number: int, seen: Seen) -> None:
        """Keep a copy of a call; where that is too much, older records go first, then the last batches of this one."""
        if number not in record:
            return
        record[number].append(seen.cloned())
        self.size += size_of(seen)
        while self.size > self.memory:
            oldest = next(iter(self.records))
            self._drop(self.records[oldest], max(self.records[oldest]))
            if not self.records[oldest]:
                del self.records[oldest]

    def _drop(self, record: Record, number: int) -> None:
        self.size -= sum(map(size_of, record.pop(number)))


def size_of(seen: Seen) -> int:
    """Bytes of what a call read and made."""
    return sum(part.nbytes for part in (seen.input, seen.output, seen.summand) if part is not None)


class OriginalPass:
    """A pass of the original that tells its calls: those that are kept, or as they happen.

    Args:
        waiting: runs them.
        kept: all calls, or none.
        keep: is called with each that happens.
    """

    def __init__(self, waiting: WaitingPass, kept: Sequence[Seen] = (), keep: Callable[[Seen], None] | None = None):
        self.waiting, self.kept, self.keep = waiting, iter(kept) if kept else None, keep

    def advance(self) -> Seen:
        """The next call."""
        if self.kept is not None:
            return next(self.kept)
        seen = self.waiting.advance()
        if self.keep is not None:
            self.keep(seen)
        return seen

    def end(self) -> None:
        """End it where it is."""
        self.waiting.end()
