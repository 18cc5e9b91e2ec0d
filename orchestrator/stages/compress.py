"""Makes one group of a network narrower, or all in sequence."""

import json
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from orchestrator.worker.compressing import (
    compression_config,
    rows_of_thresholds,
    stored_sizes,
    widths_before,
)
from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made, Rows, StageLike
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.compression import compress, score
from workloads.compression.compress import BY_SCORES, budget_of, in_order
from workloads.compression.pairings import Pairings
from workloads.config import CompressionConfig, LeastSquaresConfig
from workloads.measuring.evaluation import mac_count, parameter_count
from workloads.networks.checkpoints import Description
from workloads.plugins import CRITERION


def make(task: Task, work: Work) -> Made:
    """The narrower network; stages of one task that rank the same group by the same criterion share the scores."""
    base, description = task.merged(work.inputs[0])
    config = compression_config(work)
    sources = task.sources(work)
    solving = config.repair if isinstance(config.repair, LeastSquaresConfig) else None
    memory = task.memory.setdefault("scores", {})
    task.loaded = 0

    def scored(number: int) -> tuple[Pairings, Tensor]:
        shared = work.inputs, number, config.criterion.model_dump_json(), sources.seed
        if shared not in memory:
            if config.allocation == "uniform" and solving is None:
                memory.clear()
            before, task.loaded = task.loaded, 0
            memory[shared] = score(base, number, config.criterion, sources), task.loaded
            task.loaded = max(before, task.loaded)
        known: tuple[Pairings, Tensor]
        known, loaded = memory[shared]
        task.loaded = max(task.loaded, loaded)
        return known

    unpruned = task.unpruned(base, description) if config.sparsity_of in ("macs", "latency") else None
    sizes = [stored_sizes(task.context.store, key) for key in work.inputs[1:]]  # that a search has found
    before = widths_before(base, description)
    pruned = compress(
        base,
        config,
        replace(sources, milliseconds=lambda model: task.milliseconds(model, description)),
        originals=before,
        parameters=description.parameters,
        scored=scored,
        unpruned=unpruned,
        sizes=in_order(sizes[0], config.order) if sizes else None,
    )
    places = {str(number): chosen.tolist() for number, chosen in pruned.places.items()}
    criterion = CRITERION.plugin(config.criterion.name, config.criterion.options)
    columns: dict[str, Any] = {
        "training_images": task.loaded,
        "calibration": task.calibration(criterion.calibration, solving),
    }
    if config.sparsity_of != "neurons":
        columns["reached_sparsity"] = reached(task, config, pruned.model, description, unpruned)
    rows: Rows = {}
    if config.allocation in BY_SCORES:
        budget = budget_of(config.sparsity_of, base, sources, description.parameters, unpruned)
        rows["allocations"] = rows_of_thresholds(base, config, pruned, before, budget)
    return Made((pruned.model, replace(description, places=places)), rows, columns)


def reached(
    task: Task, config: CompressionConfig, pruned: nn.Module, description: Description, unpruned: nn.Module | None
) -> float:
    """The share of weights, multiplications or time that is gone.

    Args:
        unpruned: the network before any pruning, for multiplications and time.
    """
    if unpruned is None:
        return 1 - parameter_count(pruned) / description.parameters
    if config.sparsity_of == "macs":
        return 1 - mac_count(pruned, task.dataset.shape) / mac_count(unpruned, task.dataset.shape)
    return 1 - task.milliseconds(pruned, description) / task.milliseconds(unpruned, description)


def shares_task(stage: StageLike) -> Hashable:
    """Stages that start from the same network and rank the same group by the same criterion."""
    criterion = json.dumps(stage.parameters["criterion"], sort_keys=True)
    return stage.inputs, stage.parameters.get("group"), criterion


KIND = Kind(
    code_version=4,
    make=make,
    gpus=SHARE_OF_GPU,
    tables=("evaluations", "allocations"),
    shares_task=shares_task,
    reads=("measuring",),
)
