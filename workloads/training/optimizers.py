"""Optimizers, their rates, and averages of weights, as settings name them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workloads.recipes import TrainingConfig
from workloads.structure.copying import copied

ONE_CYCLE_RISE = 0.3


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of the update number `step` = 0, 1, …."""
    warmup, steps = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "halving":
        return config.learning_rate * 0.5 ** (step // steps_per_epoch // config.halve_every)
    if config.schedule == "one-cycle":
        progress = (step + 1) / steps
        return config.learning_rate * min(progress / ONE_CYCLE_RISE, max(0.0, (1 - progress) / (1 - ONE_CYCLE_RISE)))
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return config.learning_rate


def optimizer_of(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of the settings, for all parameters of a network.

    Weight decay of all but SGD spares what has one dimension, such as biases and norms, and what the network's own
    `no_weight_decay()` names, as those of timm do.

    Raises:
        ValueError: torch.optim has no such optimizer, or it does not take the options.
    """
    name, options = config.optimizer_name, config.optimizer_options
    if name == "sgd":
        given = {"momentum": config.momentum, "nesterov": config.nesterov, "weight_decay": config.weight_decay}
        return torch.optim.SGD(model.parameters(), config.learning_rate, **{**given, **options})
    chosen = torch.optim.AdamW if name == "adamw" else getattr(torch.optim, name, None)
    if not (isinstance(chosen, type) and issubclass(chosen, torch.optim.Optimizer)) or chosen is torch.optim.Optimizer:
        raise ValueError(f"torch.optim has no optimizer '{name}'")
    spared = set(spared_names(model))
    groups = [
        {"params": [p for n, p in model.named_parameters() if (n in spared) == sparing], "weight_decay": decay}
        for sparing, decay in ((False, config.weight_decay), (True, 0.0))
    ]
    make: Callable[..., torch.optim.Optimizer] = chosen
    try:
        return make([group for group in groups if group["params"]], lr=config.learning_rate, **options)
    except TypeError as error:
        raise ValueError(f"optimizer '{name}' does not take these options: {error}") from error


def spared_names(model: nn.Module) -> Iterator[str]:
    """Names of the parameters that weight decay leaves alone."""
    own = getattr(model, "no_weight_decay", None)
    named = set(own()) if callable(own) else set()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name in named:
            yield name


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and buffers; the first that it takes in counts whole."""
    moving = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def take_in(averages: Any, newest: Any, count: Any) -> None:
        if averages[0].is_floating_point():
            moving(averages, newest, count)
            return
        for average, new in zip(averages, newest, strict=True):  # an index cannot be averaged
            average.copy_(new)

    return AveragedModel(copied(model), multi_avg_fn=take_in, use_buffers=True)
