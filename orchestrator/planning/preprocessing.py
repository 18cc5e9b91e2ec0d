"""The preprocessing of published networks, as the data set's default."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.settings.experiment import Experiment
from workloads.networks.hubs.names import published

CUT_FROM_LARGER = ("parquet", "image-folder")


def with_preprocessing(experiment: Experiment) -> Experiment:
    """The experiment whose data set is prepared as its published networks want it, where it does not say otherwise.

    Raises:
        ValueError: two networks want it differently, or weights cannot be had.
    """
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


def _wanted(experiment: Experiment, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a network's images and is no setting of the data set."""
    dataset = experiment.dataset
    found = {
        setting: value
        for setting, value in known.items()
        if value is not None and getattr(dataset, setting) is None and not (setting == "resize" and dataset.size)
    }
    if dataset.name not in CUT_FROM_LARGER or found.get("resize", 0) <= (found.get("size") or dataset.size or 0):
        found.pop("resize", None)
    return found
