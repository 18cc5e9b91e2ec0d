"""Configurations of timm and transformers that describe a network as it is now, narrowed or not, where there is one.

What a configuration can say is tried, not known: a setting is changed by the sizes that tensors have, the library
builds the network from it, and it counts where every tensor then has the name and shape of the network's.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from workloads.networks.checkpoints import Description

Shapes = Mapping[str, tuple[int, ...]]
SETTLED_BY_DATA = ("num_labels", "num_channels", "image_size")


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters and buffers, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def of_transformers(model: nn.Module, description: Description, classes: tuple[str, ...]) -> dict[str, Any] | None:
    """The configuration by which transformers builds the network; None where none of its settings says the widths."""
    if not str(description.model["name"]).startswith("hf:") or not hasattr(model, "config"):
        return None
    import transformers

    own: Any = model.config
    wanted, config = shapes_of(model), own.to_dict()
    config["id2label"] = dict(enumerate(classes))
    config["label2id"] = {name: number for number, name in enumerate(classes)}
    config["architectures"] = [type(model).__name__]
    for key in ("_name_or_path", "transformers_version"):
        config.pop(key, None)

    def built(settings: dict[str, Any]) -> Shapes:
        known = transformers.AutoConfig.for_model(**settings)
        return shapes_of(transformers.AutoModelForImageClassification.from_config(known))

    found = built(config)
    for name, value in list(config.items()):
        if found == wanted or name in SETTLED_BY_DATA:
            continue
        for narrowed in _narrowed(value, found, wanted):
            try:
                other = built({**config, name: narrowed})
            except Exception:  # of the library, which does not take such a value
                continue
            if _unlike(other, wanted) < _unlike(found, wanted):
                config, found = {**config, name: narrowed}, other
    return config if found == wanted else None


def of_timm(model: nn.Module, description: Description, classes: tuple[str, ...]) -> dict[str, Any] | None:
    """The configuration by which timm builds the network, without its preprocessing; None where there is none."""
    known = getattr(model, "pretrained_cfg", None) or {}
    if not str(description.model["name"]).startswith("timm:") or not known.get("architecture"):
        return None
    import timm

    wanted, arguments = shapes_of(model), {**description.model["options"], "in_chans": description.channels}
    for more in _ratios(model):
        try:
            other = timm.create_model(
                known["architecture"], pretrained=False, num_classes=description.classes, **{**arguments, **more}
            )
        except Exception:  # of the library, which does not take such an argument
            continue
        if shapes_of(other) == wanted:
            about = {key: known[key] for key in ("first_conv", "classifier") if known.get(key)}
            return {
                "architecture": known["architecture"],
                "num_classes": description.classes,
                "label_names": list(classes),
                "model_args": {**arguments, **more},
                "pretrained_cfg": {**about, "num_classes": description.classes},
            }
    return None


def _ratios(model: nn.Module) -> Iterator[dict[str, float]]:
    """Arguments of timm that may say how wide a network is: none, or the one width of all its MLPs as a share."""
    yield {}
    layers = [module for name, module in model.named_modules() if name.endswith("mlp.fc1")]
    widths = {tuple(layer.weight.shape[:2]) for layer in layers if isinstance(layer, nn.Linear)}
    if len(widths) == 1:
        ((hidden, width),) = widths
        yield {"mlp_ratio": hidden / width}
        yield {"mlp_ratio": (hidden + 0.5) / width}  # where the product is rounded down to one less


def _narrowed(value: Any, found: Shapes, wanted: Shapes) -> Iterator[Any]:
    """What a setting may be instead: a width by the sizes that dimensions of this width have, of a list each one."""
    if isinstance(value, bool) or not isinstance(value, (int, list)):
        return
    if isinstance(value, int):
        yield from _instead(value, found, wanted)
        return
    for place, each in enumerate(value):
        if isinstance(each, int):
            for width in _instead(each, found, wanted):
                yield [*value[:place], width, *value[place + 1 :]]


def _instead(width: int, found: Shapes, wanted: Shapes) -> list[int]:
    """The sizes that dimensions have in the network, of those that are of this width where they differ."""
    sizes = {
        new
        for name in found.keys() & wanted.keys()
        for old, new in zip(found[name], wanted[name], strict=False)
        if old == width != new
    }
    return sorted(sizes)


def _unlike(found: Shapes, wanted: Shapes) -> int:
    """How many tensors differ."""
    return sum(found.get(name) != wanted.get(name) for name in found.keys() | wanted.keys())
