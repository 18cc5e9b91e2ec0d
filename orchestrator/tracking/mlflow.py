"""MLflow: a run for the run, and in it one for each network that was trained or measured."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.tracking.interface import End, Run, Value, curves_in, measured_in, settings_in

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun

PARENT, CELL = "mlflow.parentRunId", "metaprune.cell"
MOST_LETTERS, MOST_TOGETHER, PAGE = 6000, 100, 1000  # MLflow's own limits
ENDS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflow:
    """Sends to the server, or into the database or folder, that MLflow's own variables name.

    Args:
        uri: of another server; None is `MLFLOW_TRACKING_URI`, or what MLflow takes without it.
        experiment: of MLflow's; None is the experiment's name.
    """

    def __init__(self, *, uri: str | None = None, experiment: str | None = None):
        self.uri, self.experiment = uri, experiment
        self.children: dict[str, str] = {}

    def open(self, run: Run, earlier: str | None) -> str:
        """Begin a run, or go on in an earlier one unless that was deleted."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        from mlflow import MlflowClient

        self.client = MlflowClient(self.uri)
        found = self.there(earlier)
        if found is None:
            tags = {"mlflow.source.name": "metaprune", "metaprune.run": run.uri}
            found = self.client.create_run(self.experiment_id(run), run_name=run.name, tags=tags)
        self.id, self.in_experiment = found.info.run_id, found.info.experiment_id
        self.known = dict(found.data.params)
        self.client.update_run(self.id, status="RUNNING")
        self.children = dict(self.earlier_children())
        return str(self.id)

    def there(self, earlier: str | None) -> "MLflowRun | None":
        """An earlier run, if it is still there."""
        from mlflow.exceptions import MlflowException

        if earlier is None:
            return None
        try:
            found = self.client.get_run(earlier)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found if found.info.lifecycle_stage == "active" else None

    def experiment_id(self, run: Run) -> str:
        """The experiment of the runs, made where there is none."""
        name = self.experiment or run.experiment
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    def earlier_children(self) -> list[tuple[str, str]]:
        """Cells that have a run already, and these."""
        found: list[tuple[str, str]] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.in_experiment], f"tags.`{PARENT}` = '{self.id}'", max_results=PAGE, page_token=token
            )
            found += [(run.data.tags[CELL], run.info.run_id) for run in page if CELL in run.data.tags]
            token = page.token
            if not token:
                return found

    def parameters(self, settings: Mapping[str, Value]) -> None:
        """Parameters of the run; one that has changed since is a tag, since MLflow lets no parameter change."""
        texts = {name: str(value)[:MOST_LETTERS] for name, value in settings.items()}
        self.log_parameters(self.id, {name: text for name, text in texts.items() if name not in self.known})
        for name, text in texts.items():
            if self.known.get(name, text) != text:
                self.client.set_tag(self.id, f"changed.{name}", text)
        self.known = {**texts, **self.known}

    def log_parameters(self, run: str, texts: Mapping[str, str]) -> None:
        """Log parameters, as many at a time as MLflow takes."""
        from mlflow.entities import Param

        items = [Param(name, text) for name, text in texts.items()]
        for start in range(0, len(items), MOST_TOGETHER):
            self.client.log_batch(run, params=items[start : start + MOST_TOGETHER])

    def child(self, title: str, row: Mapping[str, Any]) -> str:
        """The run of a network, begun where there is none."""
        key = str(row["cell"])
        if key not in self.children:
            tags = {PARENT: self.id, CELL: key, "mlflow.source.name": "metaprune"}
            made = self.client.create_run(self.in_experiment, run_name=title, tags=tags)
            self.children[key] = made.info.run_id
            self.log_parameters(made.info.run_id, {name: str(value) for name, value in settings_in(row).items()})
        return self.children[key]

    def log_metrics(self, run: str, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of one epoch or network."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def epoch(self, title: str, row: Mapping[str, Any]) -> None:
        """Metrics of the network's run by epoch."""
        self.log_metrics(self.child(title, row), curves_in(row), int(row["epoch"]))

    def cell(self, title: str, row: Mapping[str, Any]) -> None:
        """Metrics of the network's run, which is finished with it."""
        run = self.child(title, row)
        self.log_metrics(run, measured_in(row), int(row.get("epoch", 0)))
        self.client.set_terminated(run)

    def artifact(self, folder: Path) -> None:
        """Files of the run, under `report`."""
        self.client.log_artifacts(self.id, str(folder), "report")

    def close(self, end: End) -> None:
        """Say how the run ended."""
        self.client.set_terminated(self.id, ENDS[end])
