"""State dicts from the files in which networks are published: safetensors, whole or in shards, and PyTorch's own."""

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from workloads.messages import first_line

INDEX = ".safetensors.index.json"
IN_FOLDERS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")
AVERAGED = "n_averaged"  # torch.optim.swa_utils.AveragedModel counts there, beside the network it wraps
PICKLES = (".pt", ".pth", ".bin", ".tar", ".ckpt")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A published state dict; floating-point tensors as float32.

    Args:
        path: a safetensors file, the index of one in shards (`model.safetensors.index.json`), a file of `torch.save`
            (of which tensors alone are read, never code), or a folder with one of these as Hugging Face and timm name
            them. Of a file that holds several state dicts, `file.pth#model_ema` names one.

    Raises:
        FileNotFoundError: no such file, or a shard is missing.
        ValueError: it holds no state dict, holds several, or is damaged.
    """
    file, entry = located(path)
    if file.suffix in PICKLES:
        state = _chosen(_unpickled(file), file, entry)
    elif entry:
        raise ValueError(f"model.checkpoint '{path}' names an entry, but '{file.name}' has none: leave it out")
    else:
        index_and_shards = files_of(file)
        state = {}
        for part in index_and_shards[1:] or index_and_shards:
            state |= _safetensors(part)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def file_digest(path: str | Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a file's content, or of an index and all its shards, and of the entry."""
    file, entry = located(path)
    total = hashlib.sha256()
    for part in files_of(file):
        with part.open("rb") as content:
            while block := content.read(1 << 20):
                total.update(block)
    total.update(entry.encode())
    return total.hexdigest()[:16]


def located(path: str | Path) -> tuple[Path, str]:
    """The file that holds the weights, and the entry of it that is meant, or nothing.

    Raises:
        FileNotFoundError: there is none.
    """
    file, entry = Path(path).expanduser(), ""
    if not file.exists() and "#" in file.name:
        name, _, entry = file.name.rpartition("#")
        file = file.with_name(name)
    if file.is_dir():
        found = [file / name for name in IN_FOLDERS if (file / name).is_file()]
        if not found:
            raise FileNotFoundError(f"model.checkpoint '{path}' is a folder without any of {', '.join(IN_FOLDERS)}")
        return found[0], entry
    if not file.is_file():
        raise FileNotFoundError(f"model.checkpoint '{path}' does not exist")
    return file, entry


def files_of(file: Path) -> list[Path]:
    """The file, and the shards that it is the index of.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: it is no such index.
    """
    if not file.name.endswith(INDEX):
        return [file]
    try:
        shards = sorted({file.with_name(str(shard)) for shard in json.loads(file.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"model.checkpoint '{file}' is not the index of a safetensors file in shards") from error
    for shard in shards:
        if not shard.is_file():
            raise FileNotFoundError(f"model.checkpoint '{file}' has a shard '{shard.name}', which is not beside it")
    return [file, *shards]


def without_prefix(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """The state dict under the names that a network has, where all of its names have some words more in front.

    `module.`, `model.` and `_orig_mod.` come from networks that were wrapped when they were saved.
    """
    names, known = dict(state), set(expected)
    if AVERAGED not in known:
        names.pop(AVERAGED, None)
    while not names.keys() & known and all("." in name for name in names):
        if len({name.partition(".")[0] for name in names}) != 1:
            break
        names = {name.partition(".")[2]: tensor for name, tensor in names.items()}
    return names if names.keys() & known else dict(state)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise ValueError(f"model.checkpoint '{file}' is not a safetensors file, or it is damaged ({error})") from error


def _unpickled(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model.checkpoint '{file}' holds more than tensors, which is not read since it could run code: save the "
            f"network's state_dict() alone"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"model.checkpoint '{file}' is not a file of torch.save, or it is damaged ({first_line(error)})"
        ) from error


def _chosen(content: Any, file: Path, entry: str) -> dict[str, Tensor]:
    """The state dict in what a file holds: the one named, the only one in it, or all of it."""
    if not isinstance(content, Mapping):
        raise ValueError(f"model.checkpoint '{file}' holds {type(content).__name__}, not a state dict")
    found = {str(name): tensors for name, value in content.items() if (tensors := _tensors(value))}
    if entry and entry not in found:
        there = f"it has {', '.join(found)}" if found else "it has no such entries"
        raise ValueError(f"model.checkpoint '{file}' has no state dict '{entry}': {there}")
    if len(found) > 1 and not entry:
        raise ValueError(
            f"model.checkpoint '{file}' holds state dicts {', '.join(found)}: name one, as in "
            f"'{file.name}#{next(iter(found))}'"
        )
    state = found[entry] if entry else next(iter(found.values()), _tensors(content))
    if not state:
        raise ValueError(
            f"model.checkpoint '{file}' holds no state dict: its entries are {', '.join(map(str, content))}"
        )
    return state


def _tensors(content: Any) -> dict[str, Tensor]:
    """The named tensors in a mapping; nothing in what is none."""
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
