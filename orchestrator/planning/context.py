"""What all tasks of a run have in common."""

import os
import sys
from pathlib import Path

from orchestrator.planning.facts import Facts
from orchestrator.settings.experiment import Experiment
from orchestrator.storage.store import Store
from orchestrator.worker.work import Context
from workloads.config import DatasetConfig
from workloads.data.roots import expanded


def located(dataset: DatasetConfig) -> DatasetConfig:
    """The data set with its root as an absolute path, since workers run in folders of their own."""
    if dataset.root is None:
        return dataset
    return dataset.model_copy(update={"root": str(expanded(dataset.root).absolute())})


def as_run_anywhere(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths of its files, for use from other folders."""
    models = [
        model.model_copy(
            update={
                "name": located_name(model.name),
                "checkpoint": model.checkpoint and absolute(model.checkpoint),
                "checkpoints": model.checkpoints and tuple(map(absolute, model.checkpoints)),
            }
        )
        for model in experiment.models
    ]
    return experiment.model_copy(update={"dataset": located(experiment.dataset), "models": tuple(models)})


def located_name(name: str) -> str:
    """The name of a model; a folder behind `hf:` or `timm:local-dir:` as an absolute path."""
    for hub in ("hf:", "timm:local-dir:"):
        folder = name.removeprefix(hub)
        if name.startswith(hub) and Path(folder).expanduser().is_dir():
            return hub + absolute(folder)
    return name


def absolute(path: str) -> str:
    """The whole path of a file; `~` is the user's home."""
    return str(Path(path).expanduser().absolute())


def shared_context(experiment: Experiment, facts: Facts, store: Store) -> Context:
    """What all tasks of a run have in common, for one thread."""
    files: dict[str, str] = {}
    for model in experiment.models:
        of_model = facts.models[model.name_in_results]
        given = [(of_model.checkpoint, model.checkpoint), *zip(of_model.parents, model.checkpoints or (), strict=True)]
        files |= {digest: absolute(path) for digest, path in given if digest and path}
    return Context(
        store=store.uri,
        dataset=located(experiment.dataset).model_dump_json(),
        checkpoints=files,
        snapshot_every=experiment.resources.snapshot_every,
        import_paths=(*(path for path in sys.path if path), os.getcwd()),
    )
