"""Searches for the widths of a network's groups at a budget, on training images that nothing else is shown."""

import json
from collections.abc import Hashable

from orchestrator.worker.compressing import (
    allocation_row,
    compression_config,
    search_sources,
    sizes_as_bytes,
    stored_curve,
    stored_steps,
    widths_before,
)
from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made, StageLike
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.allocations import EliminationConfig, GreedyConfig
from workloads.compression.allocation.greedy import Narrowed
from workloads.compression.allocation.searching import (
    after_step,
    curves_of,
    from_curves,
    from_steps,
    no_worse_than_uniform,
)
from workloads.compression.budgets import NeuronBudget
from workloads.compression.choosing import chosen_groups
from workloads.compression.compress import budget_of


def make(task: Task, work: Work) -> Made:
    """A row for each group, and its width for the stages that narrow it.

    What the search starts from is the second input of `greedy`, the stage of the step before; of `sensitivity` it is
    all further inputs, the stages that measured its groups. What groups lose by estimate is known to all of a task.
    """
    base, description = task.merged(work.inputs[0])
    config = compression_config(work)
    sources = search_sources(task, work, description)
    before = widths_before(base, description)
    groups = [base.structure.groups[number] for number in chosen_groups(base.structure, config)]
    originals = [before[group.number] for group in groups]
    unpruned = task.unpruned(base, description) if config.sparsity_of in ("macs", "latency") else None
    budget = budget_of(config.sparsity_of, base, sources, description.parameters, unpruned)
    budget = budget or NeuronBudget(base, originals)
    steps: Narrowed | None = None
    if isinstance(config.allocation, GreedyConfig):
        start = [stored_steps(task.context.store, key) for key in work.inputs[1:]]
        steps = start[0] if start else Narrowed({group.number: group.size for group in groups})
        steps = after_step(base, config, sources, steps, groups=groups, originals=originals, budget=budget)
        found = from_steps(config, steps, groups=groups, originals=originals, budget=budget)
    else:
        memory = task.memory.setdefault("curves", {})
        known = shares_task(work)
        if known not in memory:
            memory.clear()
            if isinstance(config.allocation, EliminationConfig):
                memory[known] = curves_of(base, config, sources, groups, originals)
            else:
                curves = [stored_curve(task.context.store, key) for key in work.inputs[1:]]
                memory[known] = {group.number: curve for group, curve in zip(groups, curves, strict=True)}
        found = from_curves(config, memory[known], groups=groups, originals=originals, budget=budget)
        found = no_worse_than_uniform(base, config, sources, found, memory[known], budget)
    rows = [
        allocation_row(group, before, width=each.width, uniform=each.uniform, loss=each.loss, why=each.why)
        for each, group in zip(found.groups, groups, strict=True)
    ]
    return Made(None, {"allocations": rows}, leaves=sizes_as_bytes(found.sizes, steps))


def shares_task(stage: StageLike) -> Hashable:
    """Stages that search the same network's groups on the same images, whatever the budget is."""
    names = ("allocation", "groups", "kinds", "seed")
    return stage.inputs, json.dumps({name: stage.parameters.get(name) for name in names}, sort_keys=True)


KIND = Kind(code_version=1, make=make, gpus=SHARE_OF_GPU, tables=("allocations",), shares_task=shares_task)
