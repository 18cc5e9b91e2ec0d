"""The image classifiers of transformers: `hf:OWNER/NAME` on the Hub, or `hf:FOLDER` of the same layout."""

import inspect
import json
from pathlib import Path
from typing import Any

from torch import nn

from workloads.messages import first_line
from workloads.networks.hubs.published import Preprocessing, Published, cache_of_the_hub, float_state, library

NOT_OF_THE_NETWORK = ("_name_or_path", "transformers_version")


def build(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """The network that a configuration describes, with random weights.

    Raises:
        ValueError: there is no such configuration, or it is that of another kind of network.
    """
    config = _configuration(name, options)
    config.num_channels = in_channels
    config.num_labels = num_classes
    network: nn.Module = _classifiers().from_config(config)
    return network.float()


def published(name: str, weights: str | None, options: dict[str, Any]) -> Published:
    """Its weights, from the cache of huggingface_hub, or downloaded by transformers.

    Raises:
        ValueError: they cannot be had, or are not those of an image classifier.
    """
    if weights is not None:
        raise ValueError(f"'hf:{name}' has one set of weights a revision: give pretrained, and options.revision")
    config = _configuration(name, options)
    revision = {key: options[key] for key in ("revision",) if key in options}
    try:
        network, found = _classifiers().from_pretrained(
            _reference(name), config=config, output_loading_info=True, **revision
        )
    except Exception as error:  # of transformers, huggingface_hub, safetensors or the file system
        raise ValueError(_not_had(name, error)) from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"the weights of 'hf:{name}' lack {', '.join(missing[:3])}: they are not a classifier's")
    labels = [str(config.id2label[number]).split(",") for number in sorted(config.id2label)]
    return Published(
        state=float_state(network),
        labels=tuple(tuple(part.strip() for part in words) for words in labels),
        preprocessing=_preprocessing(_reference(name), revision),
        revision=str(getattr(config, "_commit_hash", None) or ""),
    )


def source(name: str) -> str:
    """The source of the module that defines the network, and its configuration."""
    config = _configuration(name, {})
    kind = _classifiers()._model_mapping.get(type(config), None)
    module = inspect.getmodule(kind)
    settings = {key: value for key, value in config.to_dict().items() if key not in NOT_OF_THE_NETWORK}
    code = inspect.getsource(module) if module is not None else ""
    return code + json.dumps(settings, sort_keys=True, default=str)


def _classifiers() -> Any:
    transformers = library("transformers")
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForImageClassification


def _reference(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def _configuration(name: str, options: dict[str, Any]) -> Any:
    try:
        return library("transformers").AutoConfig.from_pretrained(_reference(name), **options)
    except (OSError, ValueError) as error:
        raise ValueError(_not_had(name, error)) from error


def _not_had(name: str, error: Exception) -> str:
    return (
        f"'hf:{name}' cannot be had ({first_line(error)}): let this machine reach the Hub once, copy the model's "
        f"folder into {cache_of_the_hub()}, or give 'hf:FOLDER' with its config.json and weights"
    )


def _preprocessing(reference: str, revision: dict[str, Any]) -> Preprocessing:
    """What the image processor beside the weights says; nothing where there is none."""
    try:
        known = library("transformers").AutoImageProcessor.from_pretrained(reference, **revision).to_dict()
    except (OSError, ValueError):
        return Preprocessing()
    size, crop = dict(known.get("size") or {}), dict(known.get("crop_size") or {})
    resize = size.get("shortest_edge") or size.get("height")
    cut = crop.get("height") if known.get("do_center_crop") else resize
    if known.get("crop_pct") and resize:  # ConvNeXt's: the size that is left, cut out of a larger image
        cut, resize = resize, int(resize / known["crop_pct"])
    mean, std = (known.get(key) if known.get("do_normalize", True) else None for key in ("image_mean", "image_std"))
    return Preprocessing(cut, resize, mean and tuple(mean), std and tuple(std))
