"""The command line: `metaprune run`, `plan`, `status`, `watch` and so on. A thin layer on the Python API."""

import shlex
import sys
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.ending import INTERRUPTED, REQUEUE, fail, interruptible, refuse_empty, refusing_bad_input
from orchestrator.printing import console, settle_streams, show_notes, show_plan, show_status
from workloads.messages import counted

if TYPE_CHECKING:
    from orchestrator.planning.facts import Facts
    from orchestrator.planning.plan import Plan
    from orchestrator.running.driver import RunSummary
    from orchestrator.settings.experiment import Experiment
    from orchestrator.tracking.processes import Trackers

MOST_CAUSES = 5
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

ExperimentArgument = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A built-in name, or a .yaml file.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a run.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE ...", help="Change settings; values are YAML.")
]
OutOption = Annotated[str | None, typer.Option("--out", metavar="DIR_OR_URI", help="Where the run lives.")]


class Listing(StrEnum):
    """What `metaprune list` can list."""

    experiments = "experiments"
    models = "models"
    datasets = "datasets"
    criteria = "criteria"
    methods = "methods"
    results = "results"


def show_version(wanted: bool) -> None:
    """Print the version and exit, if that is wanted."""
    if wanted:
        import metaprune

        typer.echo(f"metaprune {metaprune.__version__}")
        raise typer.Exit


@app.callback()
def metaprune_command(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Benchmarks of model compression: train, fuse, prune over grids, fine-tune, measure, report."""


@app.command()
def run(
    experiment: ExperimentArgument,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    out: OutOption = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="auto|local|HOST:PORT", help="Ray cluster; default RAY_ADDRESS, or local."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, run nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also run what failed before.")] = False,
) -> None:
    """Run what is missing of an experiment, then report. Exit status 1 if cells failed, 2 for bad input."""
    with refusing_bad_input():
        loaded, facts, planned = prepare(experiment, settings, exports=dry_run)
        from orchestrator.running.driver import StoppedError, missing, run_folder, run_plan
        from orchestrator.running.lease import BusyError
        from orchestrator.running.signals import AskedToEnd
        from orchestrator.storage.store import GoneError, Store

        folder = run_folder(loaded, out)
        store = Store(folder)
        if dry_run:
            show_plan(planned, facts, loaded.resources)
            console.print(f"{len(missing(planned, store))} of these stages are missing in {folder}.")
            return
    show_notes(facts)
    from orchestrator.tracking.processes import Trackers

    with Trackers(loaded.tracking) as trackers:
        try:
            result = run_plan(
                loaded, facts, planned, out=out, address=address, retry_failed=retry_failed, trackers=trackers
            )
        except (BusyError, ConnectionError, ValueError) as error:
            fail(error, 2)
        except KeyboardInterrupt as stop:
            by = f" by {stop.signal}" if isinstance(stop, AskedToEnd) else ""
            typer.echo(
                f"metaprune: stopped{by}; what is done is kept in {folder}, the same command goes on from there",
                err=True,
            )
            raise typer.Exit(REQUEUE if by else INTERRUPTED) from None
        except GoneError as error:
            fail(error, 1)
        except (StoppedError, OSError) as error:
            fail(error, 1, f"{error}; what is done is kept, the same command goes on from there")
        with interruptible():
            conclude(result, trackers)


def conclude(result: "RunSummary", trackers: "Trackers") -> None:
    """Say how the run ended, report it, also to trackers, and exit with status 1 where cells failed."""
    if result.before == result.stages:
        console.print(f"All {result.stages} stages are already in {result.run}.")
    else:
        console.print(
            f"{counted(result.done, 'stage')} done, {result.before} were there before; results in {result.run}"
        )
    try:
        report = report_of_run(result.run)
    except (ValueError, OSError) as problem:
        fail(problem, 1, f"the report cannot be written: {problem}")
    trackers.end("finished" if result.complete else "failed", report)
    failed = len(result.failed) + result.failed_before
    if failed:
        earlier = f" ({result.failed_before} of them in an earlier run)" if result.failed_before else ""
        typer.echo(
            f"metaprune: {failed} of {result.stages} stages failed{earlier} and {result.blocked} wait for them; "
            f"--retry-failed tries them again, `metaprune status {result.run}` shows why{':' if result.failed else ''}",
            err=True,
        )
        causes = Counter(result.failed.values())
        for error, count in causes.most_common(MOST_CAUSES):
            typer.echo(f"  {count} × {error}", err=True)
        if len(causes) > MOST_CAUSES:
            typer.echo(f"  and {len(causes) - MOST_CAUSES} other causes", err=True)
        raise typer.Exit(1)


def report_of_run(folder: str) -> Path:
    """Write the report of a run into it, or beside the user where the run cannot be written to; its folder."""
    try:
        return write_report_of([folder], quiet=True)
    except OSError as problem:
        from orchestrator.storage.store import folder_name

        elsewhere = f"{folder_name(folder)}-report"
        written = write_report_of([folder], elsewhere, quiet=True)
        console.print(f"The report is in {elsewhere}, as {problem}.", markup=False)
        return written


def write_report_of(
    folders: list[str],
    out: str | None = None,
    formats: list[str] | None = None,
    only: list[str] | None = None,
    published: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a report and print where it is, its main numbers, and what it lacks unless quiet; its folder."""
    from orchestrator.storage.store import folder_name
    from reports.page import write_report

    first = folders[0]
    of_one = f"runs/{folder_name(first)}/report" if "://" in first else f"{first}/report"
    place = out or (of_one if len(folders) == 1 else "report")
    command = shlex.join(["metaprune", *sys.argv[1:]])
    report = write_report(folders, place, formats or ["png"], only or [], published=published, command=command)
    for sentence in report.headline:
        console.print(sentence, markup=False)
    console.print(f"Report: {report.folder / 'index.html'} ({len(report.files)} files)", markup=False)
    if only:
        for experiment, results in report.lacking.items():
            console.print(f"No data for {', '.join(results)}: `metaprune run {experiment}` makes it.")
    elif report.lacking and not quiet:
        count = sum(map(len, report.lacking.values()))
        console.print(f"{count} further results need other data: `metaprune list results {first}` names it.")
    if only and not set(report.files) - {"README.md", "index.html"}:
        raise typer.Exit(1)
    return report.folder


def prepare(experiment: str, settings: list[str], exports: bool = False) -> "tuple[Experiment, Facts, Plan]":
    """The experiment, what is known of its parts, with what torch.export makes of its networks or without, its plan."""
    from orchestrator.settings.experiment import Experiment
    from orchestrator.settings.reading import make_importable

    loaded = Experiment.load(experiment, settings)
    make_importable(experiment)
    from orchestrator.planning.building import make_plan
    from orchestrator.planning.facts import gather
    from orchestrator.planning.preprocessing import with_preprocessing

    loaded = with_preprocessing(loaded)
    facts = gather(loaded, exports)
    return loaded, facts, make_plan(loaded, facts)


@app.command()
def plan(
    experiment: ExperimentArgument,
    settings: SetOption = [],  # noqa: B006
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the complete experiment instead.")] = False,
) -> None:
    """Show stages, cells, shared work and an estimate; starts nothing."""
    with refusing_bad_input():
        if resolved:
            from orchestrator.settings.experiment import Experiment

            typer.echo(Experiment.load(experiment, settings).to_yaml(), nl=False)
            return
        loaded, facts, planned = prepare(experiment, settings, exports=True)
    show_plan(planned, facts, loaded.resources)


@app.command()
def groups(
    experiment: ExperimentArgument,
    settings: SetOption = [],  # noqa: B006
) -> None:
    """Show the groups of each network: number, kind, size, what makes and reads them; and what stays, and why."""
    with refusing_bad_input():
        from orchestrator.planning.facts import structures
        from orchestrator.planning.preprocessing import with_preprocessing
        from orchestrator.settings.experiment import Experiment
        from orchestrator.settings.reading import make_importable

        loaded = Experiment.load(experiment, settings)
        make_importable(experiment)
        for label, structure in structures(with_preprocessing(loaded)):
            console.print(f"{label}\n{structure}\n", markup=False)


@app.command()
def report(
    folders: Annotated[list[str], typer.Argument(metavar="RUN [RUN ...]", help="Folders or URIs of runs.")],
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Folder for the files; default RUN/report, or report for several."),
    ] = None,
    formats: Annotated[list[str], typer.Option("--format", metavar="png|pdf|svg ...")] = [],  # noqa: B006
    only: Annotated[list[str], typer.Option("--only", metavar="ID ...", help="See `metaprune list results`.")] = [],  # noqa: B006
    published: Annotated[
        bool, typer.Option("--published", help="Draw the paper's curves beside the measured.")
    ] = False,
) -> None:
    """Draw the figures and tables of one or several runs, together, from their results."""
    with refusing_bad_input():
        write_report_of([run if "://" in run else str(Path(run)) for run in folders], out, formats, only, published)


@app.command()
def export(
    folder: RunArgument,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="Key in the column `cell` of results, or its beginning.")],
    kind: Annotated[str, typer.Option("--format", metavar="safetensors|torch-export|onnx|hf", help="What to write.")],
    out: Annotated[str | None, typer.Option("--out", metavar="PATH", help="Default <model>-<cell>.<suffix>.")] = None,
) -> None:
    """Write a network of a run as a file or folder, and run it. Exit status 1 if it computes something else."""
    with refusing_bad_input():
        from orchestrator.export import export_network
        from workloads.networks.exporting import ExportError

        try:
            exported = export_network(folder, cell, kind, out, tell=lambda text: console.print(text, markup=False))
        except ExportError as error:
            fail(error, 1, f"{error}; nothing was written")
    data = exported.dataset
    shape, mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (data.shape, data.mean, data.std))
    for line in (
        f"{exported.path}: {exported.model}, {exported.parameters:,} parameters, accuracy {exported.accuracy:.2f} %",
        f"It was read back and run; the largest difference of logits is {exported.difference:.2g}.",
        f"It takes float32 images (B, {shape}) with pixels in [0, 1], less the mean {mean}, divided by {std}.",
    ):
        console.print(line, markup=False)
    if kind == "hf":
        readers = f"metaprune.from_pretrained and {exported.reader} read" if exported.reader else "Only metaprune reads"
        console.print(f"{readers} the folder.", markup=False)


@app.command()
def status(folder: RunArgument) -> None:
    """Show what of a run is done, running, failed and missing, and why. Exit status 1 if something failed."""
    with refusing_bad_input():
        from orchestrator.status import status_of

        found = status_of(folder)
    show_status(found)
    if len(found.failures):
        raise typer.Exit(1)


@app.command()
def watch(
    folder: RunArgument,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the page; 0 is any. Default 8642, or any if taken.")
    ] = None,
) -> None:
    """Show a run in the browser while it goes on: progress, curves, first figures, failures. Ctrl-C ends it."""
    with refusing_bad_input():
        from orchestrator.watching.server import opened, serve

        server = opened(folder, port)
        console.print(f"{server.address} shows {folder}, on this machine alone; Ctrl-C ends it.", markup=False)
        serve(server)


@app.command(name="list")
def list_command(
    what: Annotated[Listing, typer.Argument()] = Listing.experiments,
    folder: Annotated[
        str | None, typer.Argument(metavar="RUN", help="For results: which of them it has data for.")
    ] = None,
) -> None:
    """List what there is, with a line about each."""
    with refusing_bad_input():
        if folder and what is not Listing.results:
            raise ValueError(f"a run has {Listing.results.value} to list, not {what.value}: leave '{folder}' out")
        listed = results_of(folder) if folder else entries(what)
    for name, about in listed.items():
        console.print(f"{name:<27} {about}", markup=False)


def results_of(folder: str) -> dict[str, str]:
    """Whether a run has the data for each result, and what makes it where it has not."""
    from reports.exhibits.catalog import EXHIBITS
    from reports.results.selection import tables_of

    tables = tables_of(folder)
    return {
        name: f"{result.shows}: " + ("there" if any(result.make(tables)) else f"`metaprune run {result.experiment}`")
        for name, result in EXHIBITS.items()
    }


def entries(what: Listing) -> dict[str, str]:
    """Names and summaries."""
    if what is Listing.experiments:
        from orchestrator.settings.reading import built_in

        return built_in()
    if what is Listing.results:
        from reports.exhibits.catalog import EXHIBITS

        return {name: f"{result.shows} (needs {result.needs})" for name, result in EXHIBITS.items()}
    from workloads.plugins import CRITERION, DATASET, METHOD, MODEL

    kinds = {
        Listing.models: MODEL,
        Listing.datasets: DATASET,
        Listing.criteria: CRITERION,
        Listing.methods: METHOD,
    }
    listed = kinds[what].summaries()
    if what is Listing.models:
        from workloads.networks.hubs.names import SUMMARIES

        listed |= SUMMARIES
    return listed


def repeated(arguments: list[str]) -> list[str]:
    """Let `--set a=1 b=2` and `--format png pdf` stand for the option given several times."""
    belongs: dict[str, Callable[[str], bool]] = {"--set": lambda argument: "=" in argument}
    if "report" in arguments:
        from reports.exhibits.catalog import EXHIBITS, TOGETHER
        from reports.page import FORMATS

        belongs |= {"--format": FORMATS.__contains__, "--only": {*EXHIBITS, *TOGETHER}.__contains__}
    result: list[str] = []
    option, value_due = "", False
    for argument in arguments:
        if argument.startswith("-"):
            option, value_due = argument, True
        elif value_due:
            value_due = False
        elif option in belongs and belongs[option](argument):
            result.append(option)
        else:
            option = ""
        result.append(argument)
    return result


def main() -> None:
    """The entry point of `metaprune` and `python -m orchestrator`."""
    settle_streams()
    refuse_empty(sys.argv[1:])
    app(repeated(sys.argv[1:]), prog_name="metaprune")
