"""Searches for the widths of a network's groups at a budget, on training images that nothing else is shown."""

import json
from collections.abc import Hashable
from dataclasses import replace

from orchestrator.worker.compressing import compression_config, sizes_as_bytes, widths_before
from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made, StageLike
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.compression.allocation import allocate
from workloads.compression.allocation.searching import curves_of
from workloads.compression.budgets import NeuronBudget
from workloads.compression.choosing import chosen_groups
from workloads.compression.compress import budget_of
from workloads.scope import EliminationConfig


def make(task: Task, work: Work) -> Made:
    """A row for each group, and its width for the stages that narrow it; what groups lose is known to all of a task."""
    base, description = task.merged(work.inputs[0])
    config = compression_config(work)
    assert isinstance(config.allocation, EliminationConfig)
    sources = replace(
        task.sources(work),
        held_back=lambda count: task.held_back_images(work, count),
        milliseconds=lambda model: task.milliseconds(model, description),
    )
    before = widths_before(base, description)
    groups = [base.structure.groups[number] for number in chosen_groups(base.structure, config)]
    originals = [before[group.number] for group in groups]
    unpruned = task.unpruned(base, description) if config.sparsity_of in ("macs", "latency") else None
    memory = task.memory.setdefault("curves", {})
    known = shares_task(work)
    if known not in memory:
        memory.clear()
        memory[known] = curves_of(base, config.allocation, sources, [group.number for group in groups])
    found = allocate(
        base,
        config,
        sources,
        groups=groups,
        originals=originals,
        budget=budget_of(config.sparsity_of, base, sources, description.parameters, unpruned)
        or NeuronBudget(base, originals),
        curves=memory[known],
    )
    rows = [
        {
            "of_group": each.number,
            "layer": group.layers[0],
            "neurons": before[each.number],
            "width": each.width,
            "uniform_width": each.uniform,
            "loss": each.loss,
            "why": each.why,
        }
        for each, group in zip(found.groups, groups, strict=True)
    ]
    return Made(None, {"allocations": rows}, leaves=sizes_as_bytes(found.sizes))


def shares_task(stage: StageLike) -> Hashable:
    """Stages that search the same network's groups on the same images, whatever the budget is."""
    names = ("allocation", "groups", "kinds", "seed")
    return stage.inputs, json.dumps({name: stage.parameters.get(name) for name in names}, sort_keys=True)


KIND = Kind(code_version=1, make=make, gpus=SHARE_OF_GPU, tables=("allocations",), shares_task=shares_task)
