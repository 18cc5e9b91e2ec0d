"""The model card of an exported network: where it comes from, what it was measured at, and how it is read."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from orchestrator.settings.experiment import Experiment
from workloads.data.samples import Dataset

OF_THE_RUN = frozenset({"settings", "schema", "seconds"})


def model_card(row: Mapping[str, Any], experiment: Experiment, dataset: Dataset, reader: str) -> str:
    """The text of README.md, with the head that the Hub reads.

    Args:
        row: of the cell, from the table `evaluations`.
        reader: the library that reads the folder besides metaprune, or nothing.
    """
    settings = json.loads(row.get("settings") or "{}")
    licence = str(settings.get("model.licence") or "")
    head = {
        **({"license": licence.lower()} if licence else {}),
        "library_name": reader or "metaprune",
        "pipeline_tag": "image-classification",
        "tags": ["metaprune", "model-compression", "pruning"],
        **_base(experiment, row),
    }
    values = {name: value for name, value in row.items() if value is not None and name not in OF_THE_RUN}
    about_data = settings.get("dataset.licence") or "not known"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False).strip(),
            "---",
            "",
            f"# {row['model']}, cell {row['cell']}",
            "",
            f"A network of the experiment `{experiment.name}`, measured at {row['accuracy']:.2f} % on "
            f"{dataset.label} ({dataset.measured_on}).",
            "",
            f"Licence of the weights it started from: {licence or 'not known'}. Licence of the data set: {about_data}.",
            "",
            "## Use",
            "",
            "```python",
            *_use(reader),
            "```",
            "",
            f"It takes float32 images (B, {', '.join(map(str, dataset.shape))}) with pixels in [0, 1], less the mean "
            f"{_numbers(dataset.mean)}, divided by {_numbers(dataset.std)}.",
            "",
            "## Results",
            "",
            "| column | value |",
            "| --- | --- |",
            *[f"| `{name}` | {_cell(value)} |" for name, value in values.items()],
            "",
            "## Settings of this cell",
            "",
            "```yaml",
            yaml.safe_dump(settings, sort_keys=True, allow_unicode=True).strip(),
            "```",
            "",
            "## Experiment",
            "",
            "```yaml",
            experiment.to_yaml().strip(),
            "```",
            "",
        ]
    )


def _base(experiment: Experiment, row: Mapping[str, Any]) -> dict[str, str]:
    """The model and the data set of the Hub that it comes from, where they are of the Hub."""
    found = {}
    name = next((model.name for model in experiment.models if model.name_in_results == row["model"]), "")
    hub, _, repository = name.partition(":")
    if hub == "hf" and repository.count("/") == 1 and not repository.startswith(("/", ".", "~")):
        found["base_model"] = repository
    if experiment.dataset.place:
        found["datasets"] = experiment.dataset.place
    return found


def _use(reader: str) -> list[str]:
    """Code that reads the folder."""
    ours = ["from metaprune import from_pretrained", "", 'model = from_pretrained("FOLDER")']
    others = {
        "timm": ["import timm", "", 'model = timm.create_model("local-dir:FOLDER", pretrained=True)'],
        "transformers": [
            "from transformers import AutoModelForImageClassification",
            "",
            'model = AutoModelForImageClassification.from_pretrained("FOLDER")',
        ],
    }
    return [*ours, *(["", f"# or, without metaprune, by {reader}", *others[reader]] if reader else [])]


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
