"""Networks as bytes: safetensors whose header says how to build the network again; never a pickle."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from workloads.config import ModelConfig
from workloads.networks.models import build
from workloads.networks.weights import without_prefix
from workloads.structure.attention import OpenedAttention, opened
from workloads.structure.extending import extend
from workloads.structure.layers import RECORDED, record, resize
from workloads.structure.logits import COMPILED, unwrapped
from workloads.structure.reshaping import InfersLastSizes
from workloads.structure.standardised import KeepsWeights
from workloads.structure.windows import OpenedWindowAttention

FORMAT = "metaprune-2"


class DamagedNetwork(ValueError):
    """The bytes are not a network that metaprune stored, or no longer the ones that it stored."""


@dataclass(frozen=True)
class Description:
    """What a stored network is, besides its weights.

    Attributes:
        model: settings of the network before any pruning.
        channels: of the images.
        classes: number of labels.
        parameters: count before any pruning; weight sparsity refers to it.
        widths: pairings of each group before any pruning; neuron sparsity refers to them.
        places: by number of a group, the pairings that its own were before the last pruning; none for fused networks.
        trainings: that lie behind it, one after the other.
    """

    model: dict[str, Any]
    channels: int
    classes: int
    parameters: int
    widths: tuple[int, ...] = field(default=())
    places: dict[str, list[int]] = field(default_factory=dict)
    trainings: int = 0


def load(path: str | Path) -> nn.Module:
    """A network that metaprune stored or exported, in evaluation mode, from normalised images to logits.

    Its class need not be known; where it is the user's own, its module has to be importable as it was in the run.
    `loads` gives the description too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not such a network, is damaged or was altered, or its class cannot be imported.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"network file '{path}' does not exist")
    return loads(Path(path).read_bytes(), str(path))[0]


def dumps(model: nn.Module, description: Description) -> bytes:
    """The network as safetensors with a checksum in its header; what has several names is stored once.

    Raises:
        ValueError: tensors overlap in memory without being the same.
    """
    header, stored = parts(model, description)
    return safetensors.torch.save(stored, header)


def parts(model: nn.Module, description: Description) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header by which `rebuilt` makes the network again, with a checksum, and its tensors; errors as `dumps`."""
    model = unwrapped(model)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tied = ties(model)
    stored = {name: tensor for name, tensor in state.items() if name not in tied}
    frozen = sorted(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
    text = json.dumps(asdict(description), sort_keys=True)
    parameters = json.dumps({"tied": tied, "frozen": frozen, **modules_changed(model)}, sort_keys=True)
    header = {"format": FORMAT, "description": text, "parameters": parameters}
    return {**header, "sha256": digest(stored, text + parameters)}, stored


def loads(content: bytes, origin: str) -> tuple[nn.Module, Description]:
    """The network, in evaluation mode, at whatever widths its weights have, tied and frozen as it was.

    Raises:
        DamagedNetwork: the bytes are not such a network, are damaged or were altered; names `origin`.
        ValueError: its class cannot be imported.
    """
    try:
        header_size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_size])["__metadata__"]
        state = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(origin, error) from error
    return rebuilt(state, header, origin)


def rebuilt(
    state: Mapping[str, Tensor], header: Mapping[str, str], origin: str, name: str = ""
) -> tuple[nn.Module, Description]:
    """The network that `parts` made a header and tensors of; errors as for `loads`.

    Args:
        name: of the model to build, where it is at another place than it was; empty is the one in the description.
    """
    try:
        if header["format"] != FORMAT:
            raise ValueError(f"its format is '{header['format']}', not '{FORMAT}'")
        expected, text = header["sha256"], header["description"]
        parameters = header.get("parameters", "")
        description = Description(**json.loads(text))
        known = json.loads(uncompiled(parameters) or "{}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(origin, error) from error
    if expected != digest(state, text + parameters):
        raise DamagedNetwork(f"'{origin}' does not match its checksum: delete it and run again")
    config = ModelConfig(**{**description.model, **({"name": name} if name else {})})
    model = build(config, channels=description.channels, classes=description.classes)
    state = {uncompiled(name): tensor for name, tensor in state.items()}
    state |= {name: state[same] for name, same in known.get("tied", {}).items()}
    change_modules(model, known)
    fit(model, state)
    for name, sizes in known.get("sizes", {}).items():
        for attribute, size in sizes.items():
            record(model.get_submodule(name), attribute, size)
    model.load_state_dict(state)
    for name, same in known.get("tied", {}).items():
        tie(model, name, same)
    for name, parameter in model.named_parameters() if "frozen" in known else ():
        parameter.requires_grad_(name not in known["frozen"] and parameter.is_floating_point())
    return model.eval(), Description(**{**asdict(description), "widths": tuple(description.widths)})


def _damaged(origin: str, error: Exception) -> DamagedNetwork:
    return DamagedNetwork(f"'{origin}' is not a network that metaprune stored, or it is damaged ({error})")


def modules_changed(model: nn.Module) -> dict[str, Any]:
    """What a network's modules are besides what their classes make them, as far as there is any.

    Names of attentions that were opened, sizes that modules recorded of narrowed groups, modules that infer sizes,
    and convolutions that keep their weights.
    """
    changed: dict[str, Any] = {"opened": [], "sizes": {}, "inferring": [], "keeping": []}
    for name, module in model.named_modules():
        if isinstance(module, (OpenedAttention, OpenedWindowAttention)):
            changed["opened"].append(name)
        if isinstance(module, InfersLastSizes):
            changed["inferring"].append(name)
        if isinstance(module, KeepsWeights):
            changed["keeping"].append(name)
        if sizes := vars(module).get(RECORDED):
            changed["sizes"][name] = sizes
    return {kind: found for kind, found in changed.items() if found}


def change_modules(model: nn.Module, known: Mapping[str, Any]) -> None:
    """Open attentions, and let modules infer sizes and keep weights as in the network that was stored."""
    if known.get("opened"):
        opened(model)
    for name in known.get("inferring", ()):
        extend(model.get_submodule(name), InfersLastSizes)
    for name in known.get("keeping", ()):
        extend(model.get_submodule(name), KeepsWeights)


def ties(model: nn.Module) -> dict[str, str]:
    """For each further name of a parameter or buffer in the state dict, its first one.

    A name more has a weight that two layers share, and everything in a module that stands in two places.

    Raises:
        ValueError: tensors overlap in memory without being the same, so that neither can be stored for both.
    """
    first: dict[tuple[int, torch.dtype, torch.Size, tuple[int, ...]], str] = {}
    tied: dict[str, str] = {}
    spans: list[tuple[int, int, str]] = []
    for name, tensor in model.state_dict().items():
        if not tensor.numel():
            continue
        identity = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if first.setdefault(identity, name) != name:
            tied[name] = first[identity]
            continue
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        spans.append((tensor.data_ptr(), tensor.data_ptr() + extent * tensor.element_size(), name))
    for (_, end, name), (start, _, other) in itertools.pairwise(sorted(spans)):
        if start < end:
            raise ValueError(
                f"'{name}' and '{other}' lie in the same memory but are not the same tensor, which cannot be stored: "
                f"let both names stand for one parameter, or give each its own (.clone())"
            )
    return tied


def tie(model: nn.Module, name: str, same: str) -> None:
    """Let a name stand for the parameter or buffer that another name stands for."""
    (path, _, attribute), (other, _, there) = name.rpartition("."), same.rpartition(".")
    module, source = model.get_submodule(path), model.get_submodule(other)
    if there in source._parameters:
        module.register_parameter(attribute, source._parameters[there])
    else:
        module.register_buffer(attribute, source._buffers[there])


def digest(state: Mapping[str, Tensor], description: str) -> str:
    """SHA-256 over the description and the tensors' names, shapes and values."""
    total = hashlib.sha256(description.encode())
    for name in sorted(state):
        total.update(f"{name} {state[name].dtype} {tuple(state[name].shape)} ".encode())
        total.update(state[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def fit(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give every layer the widths of the tensors in `state`, and a bias where there is one."""
    modules = dict(model.named_modules())
    for name, tensor in state.items():
        path, _, attribute = name.rpartition(".")
        current = getattr(modules.get(path), attribute, None)
        if path in modules and (current is None or current.shape != tensor.shape):
            if current is None and attribute == "bias":
                modules[path].register_parameter("bias", None)
            resize(modules[path], attribute, torch.empty_like(tensor))


def uncompiled(names: str) -> str:
    """Names of parameters without what `torch.compile` adds to those of the parts that it wraps."""
    return names.replace(f"{COMPILED}.", "")


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: str, any_width: bool = False) -> None:
    """Load a published state dict into a network of the same widths; names may have some words more in front.

    Args:
        any_width: give the network the widths of the state dict, and the biases, where they are others.

    Raises:
        ValueError: names or shapes differ; the first few are named.
    """
    state = without_prefix({uncompiled(name): tensor for name, tensor in state.items()}, model.state_dict())
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    unlike = [
        f"{k} is {given[k]}, not {expected[k]}"
        for k in expected.keys() & given.keys()
        if (len(given[k]) != len(expected[k]) if any_width else given[k] != expected[k])
    ]
    if any_width:
        unknown = [k for k in unknown if not (k.endswith(".bias") and f"{k.removesuffix('bias')}weight" in expected)]
    if missing or unknown or unlike:
        problems = [f"it lacks {', '.join(missing[:3])}"] * bool(missing)
        problems += [f"it has an unknown {', '.join(unknown[:3])}"] * bool(unknown) + sorted(unlike)[:3]
        raise ValueError(f"model.checkpoint '{origin}' does not fit the model: {'; '.join(problems)}")
    if any_width:
        fit(model, state)
    model.load_state_dict(dict(state), strict=False)
