"""Networks as folders in the layout of the Hugging Face Hub, written and read back.

`config.json` holds, under the key `metaprune`, what our own loader needs to build the network at its widths. Where timm
or transformers can say the same by their configuration, the rest of the file is that, so that they read the folder too.
"""

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from workloads.messages import first_line
from workloads.networks import checkpoints
from workloads.networks.checkpoints import DamagedNetwork, Description
from workloads.networks.exporting import ExportError, agree, compare, quietly
from workloads.networks.hubs import narrowed
from workloads.structure.copying import copied
from workloads.structure.logits import logits_of, unwrapped

CONFIG, WEIGHTS, CARD, IMAGES = "config.json", "model.safetensors", "README.md", "preprocessor_config.json"
OURS = "metaprune"
BASE = "base"  # the configuration of transformers before any narrowing, so that the folder needs no other one
BILINEAR = 2  # as Pillow numbers its filters


@dataclass(frozen=True)
class Images:
    """What images a network takes.

    Attributes:
        shape: (C, H, W).
        resize: shorter side before the centre is cut out, in pixels.
        mean, std: a channel, of pixels in [0, 1].
        classes: names of the labels.
    """

    shape: tuple[int, int, int]
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """A folder that was written and read back.

    Attributes:
        difference: the largest absolute difference of logits.
        reader: the library that reads it besides ours, `timm` or `transformers`; empty where none does.
    """

    difference: float
    reader: str


def from_pretrained(place: str | Path, revision: str | None = None) -> nn.Module:
    """A network that `metaprune export --format hf` wrote, at its widths, in evaluation mode.

    Args:
        place: the folder, or the name of a repository of the Hub, which needs the package `huggingface_hub`.
        revision: branch, tag or commit of a repository.

    Returns:
        A module from normalised float32 images (B, C, H, W) to logits (B, classes). Where the class of the network is
        the user's own, its module has to be importable.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it was written by something else, or is damaged.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        folder = _of_hub(str(place), revision)
    try:
        known = json.loads((folder / CONFIG).read_text(encoding="utf-8"))[OURS]
        state = safetensors.torch.load_file(folder / WEIGHTS)
    except OSError as error:
        raise FileNotFoundError(
            f"'{folder}' holds no {CONFIG} and {WEIGHTS}: give a folder that `metaprune export --format hf` wrote"
        ) from error
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise DamagedNetwork(
            f"'{folder}' was not written by `metaprune export --format hf`, or is damaged ({first_line(error)})"
        ) from error
    if BASE not in known:
        return checkpoints.rebuilt(state, known, str(folder))[0]
    with tempfile.TemporaryDirectory() as base:
        _write(Path(base) / CONFIG, known[BASE])
        return checkpoints.rebuilt(state, known, str(folder), f"hf:{base}")[0]


def write_folder(
    model: nn.Module, description: Description, images: Images, card: Callable[[str], str], folder: Path
) -> Folder:
    """Write a network so that `folder` holds what was read back and gave its logits, or is not there.

    Args:
        model: copied to the CPU.
        description: what it is.
        card: the text of the model card, given the library that reads the folder besides ours, or nothing.
        folder: a new one, or an empty one.

    Raises:
        OSError: it cannot be written.
        ExportError: what was written computes something else.
    """
    model = copied(unwrapped(model)).cpu().eval()
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
        header, state = checkpoints.parts(model, description)
        known: dict[str, Any] = dict(header)
        if str(description.model["name"]).startswith("hf:") and hasattr(model, "config"):
            own: Any = model.config
            known[BASE] = own.to_dict()
        safetensors.torch.save_file(state, temporary / WEIGHTS, metadata={"format": "pt"})
        reader = ""
        for library, configured in (("transformers", narrowed.of_transformers), ("timm", narrowed.of_timm)):
            with quietly():
                config = configured(model, description, images.classes)
            if config is not None:
                _write(temporary / CONFIG, {**with_images(config, images), OURS: known})
                _write(temporary / IMAGES, preprocessor(images))
                reader = library if _agrees(model, library, temporary, images) else ""
        if not reader:
            _write(temporary / CONFIG, {OURS: known, "id2label": dict(enumerate(images.classes))})
        _write(temporary / IMAGES, preprocessor(images))
        difference, largest = compare(model, from_pretrained(temporary), images.shape)
        if not agree(difference, largest):
            raise ExportError(f"the network written as hf gives logits that differ by {difference:.3g}")
        (temporary / CARD).write_text(card(reader), encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise OSError(f"'{folder}' cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Folder(difference, reader)


def read_by(library: str, folder: Path) -> nn.Module:
    """The network that timm or transformers makes of a folder, by its own means alone."""
    if library == "timm":
        import timm

        network: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        import transformers

        network = transformers.AutoModelForImageClassification.from_pretrained(folder)
    return network.eval()


def with_images(config: dict[str, Any], images: Images) -> dict[str, Any]:
    """A configuration of timm with the preprocessing of its images; one of transformers has that in another file."""
    if "pretrained_cfg" not in config:
        return config
    known = {
        "input_size": list(images.shape),
        "mean": list(images.mean),
        "std": list(images.std),
        "crop_pct": images.shape[1] / images.resize,
        "interpolation": "bilinear",
    }
    return {**config, "pretrained_cfg": {**config["pretrained_cfg"], **known}}


def preprocessor(images: Images) -> dict[str, Any]:
    """The settings of an image processor of transformers that prepares images as the run did."""
    _, height, width = images.shape
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": images.resize},
        "resample": BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        "do_convert_rgb": images.shape[0] == 3,
    }


def _agrees(model: nn.Module, library: str, folder: Path, images: Images) -> bool:
    """Whether a library reads the folder and the network gives the same logits."""
    try:
        with quietly():
            other = read_by(library, folder)
            difference, largest = compare(model, lambda batch: logits_of(other(batch)), images.shape)
    except Exception:  # of the library: our own loader reads the folder all the same
        return False
    return agree(difference, largest)


def _write(file: Path, content: Mapping[Any, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def _of_hub(name: str, revision: str | None) -> Path:
    """The folder of a repository, downloaded where it is not in the Hub's cache."""
    if name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder '{name}'")
    try:
        import huggingface_hub

        return Path(huggingface_hub.snapshot_download(name, revision=revision))
    except Exception as error:  # not installed, or of huggingface_hub or httpx
        raise FileNotFoundError(
            f"'{name}' is no folder, and cannot be had from the Hub ({first_line(error)}): give a folder that "
            f"`metaprune export --format hf` wrote"
        ) from error
