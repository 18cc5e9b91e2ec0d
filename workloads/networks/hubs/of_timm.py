"""The networks of timm (PyTorch Image Models): `timm:NAME`, `timm:NAME.TAG`, `timm:local-dir:FOLDER`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from workloads.messages import first_line
from workloads.networks.hubs.published import Preprocessing, Published, cache_of_the_hub, float_state, library
from workloads.plugins import nearest


def build(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """The network of this name with random weights.

    Raises:
        ValueError: timm has none.
    """
    timm = _with(name)
    arguments = {"num_classes": num_classes, "in_chans": in_channels, **options}
    network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return network


def published(name: str, weights: str | None, options: dict[str, Any]) -> Published:
    """Its weights, from timm's cache, which is that of huggingface_hub, or downloaded by timm.

    Raises:
        ValueError: they cannot be had, or are named otherwise.
    """
    timm = _with(name)
    if weights is not None:
        raise ValueError(
            f"timm names weights by a tag of the model: give 'timm:{name.partition('.')[0]}.{weights}' and pretrained"
        )
    try:
        network = timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # of timm, huggingface_hub, urllib or the file system
        raise ValueError(
            f"the weights of 'timm:{name}' cannot be had ({first_line(error)}): let this machine reach the Hub once, "
            f"copy the model's folder into {cache_of_the_hub()}, or give 'timm:local-dir:FOLDER' or model.checkpoint"
        ) from error
    known = dict(network.pretrained_cfg)
    size = known["input_size"][-1] if known.get("input_size") else None
    return Published(
        state=float_state(network),
        labels=_labels(known),
        preprocessing=Preprocessing(
            size, size and int(size / (known.get("crop_pct") or 1)), _tuple(known.get("mean")), _tuple(known.get("std"))
        ),
        licence=str(known.get("license") or ""),
        revision=str(known.get("tag") or ""),
    )


def source(name: str) -> str:
    """The source of the module that defines the network, or the configuration that names it."""
    timm = _with(name)
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        return Path(place, "config.json").expanduser().read_text()
    if place:
        return name
    module = inspect.getmodule(timm.model_entrypoint(name.partition(".")[0]))
    assert module is not None
    return inspect.getsource(module)


def _with(name: str) -> Any:
    timm = library("timm")
    if ":" not in name and not timm.is_model(name):
        raise ValueError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")
    return timm


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def _labels(known: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The names of the outputs: those in the configuration, or ImageNet's: the synset and the words for it."""
    if known.get("label_names"):
        return tuple((str(label),) for label in known["label_names"])
    if known.get("num_classes") != 1000:
        return ()
    imagenet = library("timm").data.ImageNetInfo("imagenet-1k")
    words = [imagenet.index_to_description(number).split(",") for number in range(1000)]
    return tuple((imagenet.index_to_label_name(k), *(w.strip() for w in words[k])) for k in range(1000))
