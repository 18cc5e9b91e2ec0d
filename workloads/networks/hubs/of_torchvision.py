"""The classifiers of torchvision: `torchvision:NAME`, with weights such as IMAGENET1K_V2."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workloads.messages import first_line
from workloads.networks.hubs.published import Preprocessing, Published, float_state, library
from workloads.plugins import nearest

WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def build(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """The network of this name with random weights, without auxiliary heads.

    Raises:
        ValueError: torchvision has none, or the images have other channels than 3.
    """
    models = _with(name)
    if in_channels != 3:
        raise ValueError(f"it takes images of 3 channels, not {in_channels}: set dataset.channels to 3")
    initialised = {"init_weights": True} if name in WITH_AUXILIARY_HEADS else {}
    arguments = {**_plain(name), **initialised, "num_classes": num_classes, **options}
    network: nn.Module = models.get_model(name, weights=None, **arguments)
    return network


def published(name: str, weights: str | None, options: dict[str, Any]) -> Published:
    """Its weights, from the cache of torch.hub, or downloaded by torchvision.

    Raises:
        ValueError: there are none of this name, or they cannot be had.
    """
    models = _with(name)
    known = models.get_model_weights(name)
    if weights is not None and weights not in known.__members__:
        raise ValueError(f"'torchvision:{name}' has no weights '{weights}': it has {', '.join(known.__members__)}")
    chosen = known[weights or "DEFAULT"]
    try:
        network = models.get_model(name, weights=chosen, progress=False, **{**_plain(name), **options})
    except Exception as error:  # of urllib, the file system, or a damaged file
        file = Path(torch.hub.get_dir(), "checkpoints", chosen.url.rpartition("/")[2])
        raise ValueError(
            f"the weights {chosen.name} of 'torchvision:{name}' cannot be had ({first_line(error)}): put {chosen.url} "
            f"at '{file}'"
        ) from error
    prepared = chosen.transforms()
    return Published(
        state=float_state(network),
        labels=tuple((str(label),) for label in chosen.meta["categories"]),
        preprocessing=Preprocessing(
            prepared.crop_size[0], prepared.resize_size[0], tuple(prepared.mean), tuple(prepared.std)
        ),
        licence=str(chosen.meta.get("license", "")),
        revision=str(chosen.name),
    )


def source(name: str) -> str:
    """The source of the module that defines the network."""
    module = inspect.getmodule(_with(name).get_model_builder(name))
    assert module is not None
    return inspect.getsource(module)


def _with(name: str) -> Any:
    models = library("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier '{name}'{nearest(name, known)}")
    return models


def _plain(name: str) -> dict[str, Any]:
    return {"aux_logits": False} if name in WITH_AUXILIARY_HEADS else {}
