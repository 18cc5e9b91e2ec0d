"""What commands print: plans, how far runs are, and tables of words and numbers."""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.running.progress import duration
from workloads.messages import counted, message

if TYPE_CHECKING:
    from orchestrator.planning.facts import Facts
    from orchestrator.planning.plan import Plan
    from orchestrator.settings.resources import ResourcesConfig, TaskConfig
    from orchestrator.status import Status

console = Console(highlight=False, soft_wrap=True)


class Unread(io.FileIO):
    """An open file that may be a pipe: what nobody reads any more goes nowhere, instead of ending the program."""

    def write(self, content: Any) -> int:
        """Write, or stop doing so where the reader has gone."""
        try:
            return super().write(content)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(content)


def settle_streams() -> None:
    """Let nothing that happens to stdout and stderr end a command or change its exit status.

    A closed one leads nowhere, a pipe may lose its reader (`metaprune run ... | head`), and a terminal or log that
    lacks a letter shows its escape.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # was closed before the start
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        elif not isinstance(stream, io.TextIOWrapper):
            continue  # of a notebook or a test
        encoding, buffered = (stream.encoding, stream.line_buffering) if stream else ("utf-8", True)
        content = io.BufferedWriter(Unread(number, "w", closefd=False))
        text = io.TextIOWrapper(content, encoding, "backslashreplace", line_buffering=buffered)
        setattr(sys, name, text)


def print_columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print words at the left and numbers at the right, whole however narrow the terminal is."""
    lines = [[*head], *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        console.print("  ".join([first.ljust(widths[0]), *numbers]), markup=False)


def show_notes(facts: "Facts") -> None:
    """Print what of the data is left out or read otherwise than it stands, and what names nothing."""
    for note in facts.notes:
        console.print(note, markup=False)


def show_plan(planned: "Plan", facts: "Facts", resources: "ResourcesConfig") -> None:
    """Print a plan's size, what of the networks it leaves alone, what trainings take, and how long it may take here."""
    seconds = dict.fromkeys(planned.count(), 0.0)
    for stage in planned.stages.values():
        seconds[stage.kind] += stage.cost
    rows = [(kind, count, f"{seconds[kind]:.0f}") for kind, count in planned.count().items()]
    print_columns(("stage", "count", "core-seconds"), rows)
    shared = planned.requested - len(planned.stages)
    console.print(
        f"{counted(len(planned.stages), 'stage')} for {counted(planned.cells, 'cell')}; sharing saves {shared}."
    )
    images = f"{counted(facts.train, 'image')} to train on, {facts.test} to measure on ({facts.measured_on})"
    console.print(f"{facts.dataset}: {images}.", markup=False)
    show_notes(facts)
    for model, label in dict.fromkeys((s.labels["model"], s.labels.get("groups")) for s in planned.stages.values()):
        if label:
            console.print(f"{model}: groups {label} of 0-{len(facts.models[model].widths) - 1} are pruned together.")
    for model, of_model in facts.models.items():
        if of_model.kept:
            console.print(
                f"{model}: {len(of_model.widths)} groups can be pruned, {len(of_model.kept)} stay as they are:"
            )
        for layer, reason in of_model.kept:
            console.print(f"  {layer or 'the network'}: {reason}", markup=False)
        if of_model.not_exportable:
            console.print(
                f"{model}: the run can make its networks, but `metaprune export` can write them as safetensors alone, "
                f"because torch.export fails ({of_model.not_exportable})",
                markup=False,
            )
    for kind in planned.count():
        if sentence := shared_training(kind, resources.task(kind)):
            console.print(sentence)
    cores = os.cpu_count() or 1
    longest = max(planned.priorities().values(), default=0.0)
    total = sum(stage.cost for stage in planned.stages.values())
    console.print(
        f"Estimate: {duration(max(longest, total / cores))} on {cores} cores like this machine's (longest path "
        f"{duration(longest)}), from the measured speed of one forward pass."
    )


def shared_training(kind: str, task: "TaskConfig") -> str:
    """What a stage takes that several workers share; empty for others."""
    if task.processes == 1:
        return ""
    if task.gpus == 0:
        gpus = "on CPUs"
    elif task.gpus is None:
        gpus = "each on a GPU of its own where the cluster has GPUs"
    else:
        gpus = f"on {task.gpus:g} GPUs"
    cpus = counted(round(task.cpus_each * task.processes), "CPU")
    return f"{kind}: {task.processes} workers share each training, {gpus}; together they take {cpus}."


def show_status(status: "Status") -> None:
    """Print what of a run is done, running, failed and missing, who drives it, and why stages failed."""
    rows = [(each.kind, each.done, each.running, each.failed, each.missing, each.planned) for each in status.counts]
    print_columns(("stage", "done", "running", "failed", "missing", "all"), rows)
    console.print(f"Driven by {status.driver}." if status.driver else "No driver is at work on it.", markup=False)
    for key, (epoch, last) in status.epochs.items():
        console.print(f"{key} has reached epoch {epoch} of {last}.", markup=False)
    for (kind, error, text), cells in status.failures.groupby(["kind", "error", "message"], sort=False)["cell"]:
        others = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        console.print(f"{cells.iloc[0]}{others}, {kind}: {error}: {message(text)}", markup=False)
