"""Solving the layers of a narrowed network in their order, from what they read now onto what the original makes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workloads.compression.compensation.layer import Rebiased, Resolved, Target, is_solvable
from workloads.compression.compensation.originals import Originals
from workloads.compression.compensation.passes import Pair, Passes, Side, passes_over, waiting_passes
from workloads.compression.compensation.plan import LayerPlan, planned
from workloads.compression.compensation.refining import Refinement
from workloads.compression.compensation.summands import Course, course_of
from workloads.compression.compensation.sums import ALL, FOLDS
from workloads.config import LeastSquaresConfig
from workloads.structure.groups import Maps
from workloads.structure.network import Network

BATCH = 64
MEMORY = 4 * 2**30  # bytes of activations that may wait at a layer


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
    originals: Originals | None = None,
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
        originals: keeps what passes of the original show for the next compensation.

    Raises:
        ValueError: the networks do not run their layers alike on these images.
    """
    plans = {plan.name: plan for plan in planned(base, narrowed, maps)}
    batches = batched(images, even=config.refine > 0)
    if not plans or not batches:
        return
    shown = batches[0] if config.refine else batches[0][:2]  # chains hold for batches of the size that was recorded
    courses = [course_of(network.model, plans, shown) for network in (base, narrowed)]
    with (
        Side(base.model, common(*courses), after=True) as original,
        Side(narrowed.model, common(*reversed(courses)), after=False) as changed,
    ):
        passes_of_original = waiting_passes if originals is None else originals.passes
        passes = passes_over(original, changed, batches, MEMORY if memory is None else memory, passes_of_original)
        refinement = Refinement(plans, courses[1].chains, config.refine, seed)
        try:
            for number, name in enumerate(dict.fromkeys(call.layer for call in courses[0].calls)):
                seen = solve(plans[name], config, passes, refinement, len(batches), seed + number)
                if seen:
                    refine(plans[name], config, passes, refinement, seen, seed + number)
        finally:
            passes.close()


def batched(images: Sequence[Tensor], *, even: bool) -> list[Tensor]:
    """Images in batches of at most `BATCH`, at least as many as there are folds, if there are as many images.

    Args:
        even: whether all are of the same size, for which some images are left out.
    """
    count = sum(map(len, images))
    if not even:
        size = max(1, min(BATCH, -(-count // FOLDS)))
        return [part for batch in images for part in batch.split(size)]
    number = min(count, max(FOLDS, -(-count // BATCH)))
    size = count // max(1, number)
    return list(torch.cat(list(images))[: number * size].split(size)) if size else []


def common(course: Course, other: Course) -> Course:
    """A course with those summands alone that are known in both networks."""
    summands = {call: value for call, value in course.summands.items() if call in other.summands}
    return Course(course.calls, summands, course.bytes_per_image)


def solve(
    plan: LayerPlan, config: LeastSquaresConfig, passes: Passes, refinement: Refinement, batches: int, seed: int
) -> list[Pair]:
    """Solve one layer, in place; its calls, where it is to be refined."""
    solution: Resolved | Rebiased | None = None
    seen = []
    for batch, before, now in passes.at(plan.name):
        if solution is None:
            kind = Resolved if is_solvable(plan, before) else Rebiased
            solution = kind(plan, config, before, now, batches, seed)
        solution.look(batch % FOLDS, before, now)
        refinement.keep(plan.name, batch, now.input)
        if plan.name in refinement.chains and isinstance(solution, Resolved):
            seen.append((batch, before, now))
    if solution is not None:
        solution.finish()
    return seen


def refine(
    plan: LayerPlan,
    config: LeastSquaresConfig,
    passes: Passes,
    refinement: Refinement,
    seen: Sequence[Pair],
    seed: int,
) -> None:
    """Fit a layer and the one that leads to it together, then solve it once more."""
    target = Target(plan, *seen[0][1:])
    targets = {}
    rows = {batch: target.rows(before, now, ALL, None) for batch, before, now in seen}
    gain, offset = target.correction(len(plan.layer.weight))
    for batch, (made, minus) in rows.items():
        corrected = made * gain.to(made) + offset.to(made)
        targets[batch] = corrected if minus is None else corrected - minus
    inputs = refinement.fit(plan.name, targets)
    if not inputs:
        return
    passes.replace(inputs)
    solution = Resolved(plan, config, *seen[0][1:], len(seen), seed, again=True)
    for batch, before, now in seen:
        solution.look(batch % FOLDS, before, now._replace(input=inputs[batch]))
        refinement.keep(plan.name, batch, inputs[batch])
    solution.finish()
