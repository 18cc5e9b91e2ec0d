"""TensorBoard: files of events, with curves, the table of its HPARAMS page, and the report's figures."""

import re
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.tracking.interface import End, Run, Value, curves_in, measured_in, settings_in

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MOST_OPEN = 8
NAME = ".metaprune"  # in the folder: names what was begun there
FLUSH_SECONDS = 10


class TensorBoard:
    """Writes files that `tensorboard --logdir FOLDER` shows.

    Args:
        folder: None is `tracking/tensorboard` in the run, or in `runs/NAME` here for a run in a bucket.
    """

    def __init__(self, *, folder: str | None = None):
        self.chosen = folder
        self.writers: OrderedDict[str, SummaryWriter] = OrderedDict()

    def open(self, run: Run, earlier: str | None) -> str:
        """Begin in the folder, or go on in it."""
        self.folder = Path(self.chosen).expanduser().absolute() if self.chosen else run.folder / "tensorboard"
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / NAME
        if not place.exists():
            place.write_text(uuid.uuid4().hex, encoding="utf-8")
        return place.read_text(encoding="utf-8")

    def writer(self, name: str) -> "SummaryWriter":
        """What writes the events of one network, or of the run for an empty name; few are open at a time."""
        from torch.utils.tensorboard import SummaryWriter

        if name not in self.writers:
            while len(self.writers) >= MOST_OPEN:
                self.writers.popitem(last=False)[1].close()
            self.writers[name] = SummaryWriter(str(self.folder / name), flush_secs=FLUSH_SECONDS)
        self.writers.move_to_end(name)
        return self.writers[name]

    def parameters(self, settings: Mapping[str, Value]) -> None:
        """A table on the page TEXT."""
        lines = ["| setting | value |", "| --- | --- |"]
        lines += [f"| {name} | {str(value).replace('|', ' ')} |" for name, value in settings.items()]
        self.writer("").add_text("experiment", "\n".join(lines))

    def epoch(self, title: str, row: Mapping[str, Any]) -> None:
        """Curves by epoch, in a folder of the network's own."""
        for name, value in curves_in(row).items():
            self.writer(folder_of(title, row)).add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))

    def cell(self, title: str, row: Mapping[str, Any]) -> None:
        """A row of the page HPARAMS."""
        settings = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in settings_in(row).items()
        }
        measured = {f"measured/{name}": value for name, value in measured_in(row).items()}
        self.writer("").add_hparams(settings, measured, run_name=folder_of(title, row))

    def artifact(self, folder: Path) -> None:
        """The figures of the report on the page IMAGES."""
        import numpy as np
        from PIL import Image

        for path in sorted(folder.glob("*.png")):
            with Image.open(path) as image:
                self.writer("").add_image(f"report/{path.stem}", np.asarray(image.convert("RGB")), dataformats="HWC")

    def close(self, end: End) -> None:
        """Write what is still in memory."""
        while self.writers:
            self.writers.popitem()[1].close()


def folder_of(title: str, row: Mapping[str, Any]) -> str:
    """The name of a network's folder."""
    return re.sub(r"[^\w.%=-]+", "-", title.replace(" %", "%"))[:150] + f"-{str(row['cell'])[:8]}"
