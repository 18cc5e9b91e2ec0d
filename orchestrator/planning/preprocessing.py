"""What the experiment leaves open and others know: the data set's files or the Hub, and networks' preprocessing."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.settings.experiment import Experiment
from workloads.data.datasets import settled
from workloads.networks.hubs.names import published

CUT_FROM_LARGER = ("parquet", "image-folder", "hf", "wds")


def with_preprocessing(experiment: Experiment) -> Experiment:
    """The experiment with its data set settled, and prepared as published networks want it, where it says nothing else.

    Raises:
        ValueError: two networks want it differently, or weights cannot be had.
    """
    experiment = with_data(experiment)
    wanted: dict[str, tuple[str, Any]] = {}
    for model in experiment.models:
        for setting, value in _wanted(
            experiment, asdict(published(model).preprocessing) if model.from_hub else {}
        ).items():
            first, other = wanted.setdefault(setting, (model.name, value))
            if value != other:
                raise ValueError(
                    f"model '{model.name}' wants images of {setting} {value}, '{first}' of {other}: give "
                    f"dataset.{setting}, or an experiment to each"
                )
    if not wanted:
        return experiment
    dataset = experiment.dataset.model_copy(update={setting: value for setting, (_, value) in wanted.items()})
    return experiment.model_copy(update={"dataset": type(dataset).model_validate(dataset.model_dump())})


def with_data(experiment: Experiment) -> Experiment:
    """The experiment whose data set says what only its files or the Hub know: the place, the commit, the split."""
    dataset = settled(experiment.dataset)
    return experiment if dataset == experiment.dataset else experiment.model_copy(update={"dataset": dataset})


def _wanted(experiment: Experiment, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a network's images and is no setting of the data set."""
    dataset = experiment.dataset
    found = {
        setting: value
        for setting, value in known.items()
        if value is not None and getattr(dataset, setting) is None and not (setting == "resize" and dataset.size)
    }
    if dataset.reader not in CUT_FROM_LARGER or found.get("resize", 0) <= (found.get("size") or dataset.size or 0):
        found.pop("resize", None)
    return found
