"""One network of a run as a file or folder that other programs run; made again where the run does not keep it."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.card import model_card
from orchestrator.planning.building import make_plan
from orchestrator.planning.context import shared_context
from orchestrator.planning.facts import gather
from orchestrator.running.progress import duration
from orchestrator.settings.experiment import Experiment
from orchestrator.settings.reading import make_importable
from orchestrator.stages import kinds
from orchestrator.storage.store import EXPERIMENT, Store, local_folder
from orchestrator.worker.measuring import measured
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.data import datasets
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import parameter_count
from workloads.messages import first_line
from workloads.networks import checkpoints
from workloads.networks.checkpoints import Description
from workloads.networks.exporting import ExportError, export, format_named
from workloads.networks.folders import Images, write_folder

FOLDER = "hf"


@dataclass(frozen=True)
class Exported:
    """A file that holds a network and was run.

    Attributes:
        path: of the file.
        model: the network's name in the results.
        parameters: weights and biases.
        accuracy: percent top-1 in the results.
        difference: largest absolute difference of logits between network and file.
        dataset: the data set whose images it takes, normalised as they are there.
        reader: the library that reads a folder besides metaprune, where one does.
    """

    path: Path
    model: str
    parameters: int
    accuracy: float
    difference: float
    dataset: Dataset
    reader: str = ""


def export_network(
    run: str | Path, cell: str, name: str, out: str | Path | None = None, tell: Callable[[str], object] = print
) -> Exported:
    """Write the network of one cell in the format `name`.

    Args:
        run: folder or URI of the run.
        cell: key in the column `cell` of its results, or its first digits.
        name: safetensors, torch-export or onnx, or hf, a folder in the layout of the Hugging Face Hub.
        out: the file or folder; None is `<model>-<cell>.<suffix>` in the current folder.
        tell: gets a sentence where the network has to be made again, which may take long.

    Raises:
        ValueError, OSError: bad input; nothing was written.
        ExportError: the network cannot be made again or exported; nothing was written.
    """
    suffix = "" if name == FOLDER else format_named(name, FOLDER).suffix
    store = Store(run)
    row = measured_cell(store, cell)
    target = out or f"{row['model']}-{row['cell']}{suffix}"
    local_folder(target)  # refuses what is no path on this machine
    path = Path(target).expanduser()
    path = writable_folder(path) if name == FOLDER else writable(path)
    make_importable(run)
    experiment = Experiment.from_yaml(store.read(EXPERIMENT).decode(), store.path(EXPERIMENT))
    try:
        dataset = datasets.load(experiment.dataset)
    except (ValueError, OSError) as error:
        raise ValueError(f"the data set of run '{run}' is needed for the shape of its images: {error}") from error
    if row["cell"] in store.network_keys():
        model, description = checkpoints.loads(*store.read_network(row["cell"]))
    else:
        model, description = made_again(store, experiment, row, tell)
    parameters = parameter_count(model)
    if name == FOLDER:
        whole = next(each for each in store.read_table("evaluations").to_pylist() if each["cell"] == row["cell"])
        side = min(dataset.shape[1:])
        resize = (experiment.dataset.resize or side) if experiment.dataset.size else side
        images = Images(dataset.shape, resize, dataset.mean, dataset.std, dataset.classes)
        card = functools.partial(model_card, whole, experiment, dataset)
        made = write_folder(model, description, images, card, path)
        return Exported(path, row["model"], parameters, row["accuracy"], made.difference, dataset, made.reader)
    difference = export(model, description, dataset.shape, name, path)
    return Exported(path, row["model"], parameters, row["accuracy"], difference, dataset)


def measured_cell(store: Store, prefix: str) -> dict[str, Any]:
    """Key, model and accuracy of the one measured stage whose key begins with `prefix`.

    Raises:
        FileNotFoundError: the store holds no run.
        ValueError: no stage or several have such a key, or its work is not done.
    """
    if not store.exists("results"):
        raise FileNotFoundError(f"'{store.uri}' is not a run: it has no folder 'results'")
    rows = store.read_table("evaluations", ["cell", "model", "accuracy"]).to_pylist()
    measured = {row["cell"]: row for row in rows}
    planned = set(store.read_table("plan", ["cell"])["cell"].to_pylist())
    keys = sorted(key for key in measured.keys() | planned if key.startswith(prefix))
    if len(keys) != 1:
        found = f"{len(keys)} cells begin with '{prefix}'" if keys else f"no cell begins with '{prefix}'"
        raise ValueError(
            f"{found} in run '{store.uri}': their keys are in the column 'cell' of its results, "
            f"`pandas.read_parquet('{store.uri}/results/evaluations')` reads them"
        )
    if keys[0] not in measured:
        raise ValueError(f"cell '{keys[0]}' of run '{store.uri}' is not done yet: `metaprune run` makes it")
    row: dict[str, Any] = measured[keys[0]]
    return row


def writable(path: Path) -> Path:
    """The path itself, if a file can be written there; so that this is known before a network is made again.

    Raises:
        OSError: it is a folder or a device, or the folder around it does not exist or is closed to writing.
    """
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"'{path}' is no ordinary file: give the name of one")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"'{path}' cannot be written: folder '{path.parent}' does not exist")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"'{path}' cannot be written: folder '{path.parent}' is closed to writing")
    return path


def writable_folder(path: Path) -> Path:
    """The path itself, if a folder can be made there; errors as for `writable`."""
    if path.is_dir() and not any(path.iterdir()):
        path = path.absolute()
    elif path.exists():
        raise FileExistsError(f"'{path}' is there and not an empty folder: give another --out")
    if not path.name or not path.parent.is_dir():
        raise FileNotFoundError(f"'{path}' cannot be written: folder '{path.parent}' does not exist")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"'{path}' cannot be written: folder '{path.parent}' is closed to writing")
    return path


def made_again(
    store: Store, experiment: Experiment, row: dict[str, Any], tell: Callable[[str], object]
) -> tuple[nn.Module, Description]:
    """The network of a stage from its inputs, with the stage's own code, seed and number of threads.

    Raises:
        ValueError: the experiment, its data or code no longer make the stage, or a network it reads is gone.
        ExportError: the stage fails.
    """
    key = row["cell"]
    facts = gather(experiment)
    stage = make_plan(experiment, facts).stages.get(key)
    if stage is None:
        raise ValueError(
            f"the network of cell '{key}' is not kept, and the run's present experiment, data and code make no such "
            f"cell any more: `metaprune run` with the settings it was made with makes it one again"
        )
    gone = [read for read in stage.inputs if read not in store.network_keys()]
    if gone:
        raise ValueError(
            f"the network of cell '{key}' is not kept, and that of stage '{gone[0]}', which it is made from, is no "
            f"longer in '{store.path('artifacts')}': `metaprune run` with another --out makes it again"
        )
    tell(f"The network is not kept; making it again: {stage.kind}, about {duration(max(1.0, stage.cost))} on one core.")
    work = Work(stage.kind, key, stage.parameters, stage.inputs, stage.labels, keep=False, record=False)
    threads = max(1, int(experiment.resources.task(stage.kind).cpus))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task = Task(replace(shared_context(experiment, facts, store), threads=threads))
        made = measured(task, work, kinds()[work.kind].make(task, work))
    except Exception as error:
        raise ExportError(f"the network of cell '{key}' cannot be made again ({first_line(error)})") from error
    finally:
        torch.set_num_threads(before)
    assert made.network is not None
    accuracy = made.rows["evaluations"][-1]["accuracy"]
    if accuracy != row["accuracy"]:
        tell(f"Made again here, its accuracy is {accuracy:.2f} %, not the {row['accuracy']:.2f} % of the results.")
    return made.network
