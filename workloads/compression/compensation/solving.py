"""Solving the layers of a narrowed network in their order, from what they read now onto what the original makes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workloads.compression.compensation.layer import Rebiased, Resolved, is_solvable
from workloads.compression.compensation.passes import Side, passes_over
from workloads.compression.compensation.plan import planned
from workloads.compression.compensation.summands import Course, course_of
from workloads.compression.compensation.sums import FOLDS
from workloads.config import LeastSquaresConfig
from workloads.structure.groups import Maps
from workloads.structure.network import Network

BATCH = 64
MEMORY = 2 * 2**30  # bytes of activations that may wait at a layer


@torch.no_grad()
def compensate(
    base: Network,
    narrowed: Network,
    maps: Mapping[int, Maps],
    images: Sequence[Tensor],
    config: LeastSquaresConfig,
    *,
    seed: int = 0,
    memory: float | None = None,
) -> None:
    """Solve the layers of the narrowed network, in place.

    Args:
        base: the original, batch-norm merged.
        narrowed: what the maps made of it.
        maps: by group, in the order in which they were applied.
        images: batches (B, C, H, W), normalised, without labels.
        config: whole kernels or maps of channels.
        seed: of the places that are looked at, where there are too many.
        memory: bytes of activations up to which all passes wait at each layer; beyond, they run again for
            each; None is `MEMORY`.

    Raises:
        ValueError: the networks do not run their layers alike on these images.
    """
    plans = {plan.name: plan for plan in planned(base, narrowed, maps)}
    size = max(1, min(BATCH, -(-sum(map(len, images)) // FOLDS)))
    batches = [part for batch in images for part in batch.split(size)]
    if not plans or not batches:
        return
    courses = [course_of(network.model, plans, batches[0][:2]) for network in (base, narrowed)]
    with (
        Side(base.model, common(*courses), after=True) as original,
        Side(narrowed.model, common(*reversed(courses)), after=False) as changed,
    ):
        passes = passes_over(original, changed, batches, MEMORY if memory is None else memory)
        try:
            for number, name in enumerate(dict.fromkeys(call.layer for call in courses[0].calls)):
                solution: Resolved | Rebiased | None = None
                for batch, before, now in passes.at(name):
                    if solution is None:
                        solved = is_solvable(plans[name], before)
                        solution = (Resolved if solved else Rebiased)(
                            plans[name], config, before, now, len(batches), seed + number
                        )
                    solution.look(batch % FOLDS, before, now)
                if solution is not None:
                    solution.finish()
        finally:
            passes.close()


def common(course: Course, other: Course) -> Course:
    """A course with those summands alone that are known in both networks."""
    summands = {call: value for call, value in course.summands.items() if call in other.summands}
    return Course(course.calls, summands, course.bytes_per_image)
