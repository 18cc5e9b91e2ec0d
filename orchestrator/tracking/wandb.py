"""Weights & Biases: one run, with the curves of each network, a step a measured network, and the report."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from orchestrator.tracking.interface import End, Run, Value, curves_in, measured_in, settings_in

SECONDS_TO_BEGIN = 45


class Wandb:
    """Sends to where Weights & Biases' own variables and login say; `WANDB_MODE=offline` keeps it in files.

    Args:
        project: None is `WANDB_PROJECT`, or `metaprune`.
        entity: whose; None is yours.
        group: of its runs; None is the experiment's name.
        mode: `online` or `offline`; None is `WANDB_MODE`, or online.
    """

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["online", "offline"] | None = None,
    ):
        self.project, self.entity, self.group, self.mode = project, entity, group, mode
        self.defined: set[str] = set()

    def open(self, run: Run, earlier: str | None) -> str:
        """Begin a run, or go on in an earlier one."""
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        self.name = run.name
        self.run = wandb.init(
            project=self.project or os.environ.get("WANDB_PROJECT") or "metaprune",
            entity=self.entity,
            name=run.name,
            group=self.group or run.experiment,
            job_type="metaprune",
            id=earlier or uuid.uuid4().hex[:8],
            resume="allow",
            mode=self.mode,
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            config={"run": run.uri},
            settings=wandb.Settings(console="off", silent=True, init_timeout=SECONDS_TO_BEGIN),
        )
        self.run.define_metric("cells/*", step_metric="cells/target_sparsity")
        return str(self.run.id)

    def parameters(self, settings: Mapping[str, Value]) -> None:
        """The configuration of the run."""
        self.run.config.update(dict(settings), allow_val_change=True)

    def epoch(self, title: str, row: Mapping[str, Any]) -> None:
        """Curves of the network against its epoch."""
        place = f"epochs/{title.replace('/', '-')} ({str(row['cell'])[:6]})"
        if place not in self.defined:
            self.run.define_metric(f"{place}/*", step_metric=f"{place}/epoch")
            self.defined.add(place)
        self.run.log({f"{place}/{name}": value for name, value in {"epoch": row["epoch"], **curves_in(row)}.items()})

    def cell(self, title: str, row: Mapping[str, Any]) -> None:
        """A step with all that is known of the network."""
        values = {"title": title, **settings_in(row), **measured_in(row)}
        self.run.log({f"cells/{name}": value for name, value in values.items()})

    def artifact(self, folder: Path) -> None:
        """The report as an artifact and as a panel, and its table of cells."""
        import pandas as pd
        import wandb

        report = wandb.Artifact(f"{self.name}-report", type="report")
        report.add_dir(str(folder))
        self.run.log_artifact(report)
        shown: dict[str, Any] = {"report": wandb.Html((folder / "index.html").read_text(encoding="utf-8"))}
        if (folder / "cells.csv").exists():
            shown["table"] = wandb.Table(dataframe=pd.read_csv(folder / "cells.csv"))
        self.run.log(shown)

    def close(self, end: End) -> None:
        """Send what is still here."""
        self.run.finish(exit_code=0 if end == "finished" else 1)
