"""The paper's tables and figures, by id."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import pandas as pd

from reports import published
from reports.exhibits import comparisons, grids, models, pipelines, reproduction, runtime
from reports.exhibits.any_run import ANY_RUN
from reports.exhibits.exhibit import Exhibit, Item, Make
from reports.results.selection import Tables

CIFAR10, CIFAR100, IMAGENET = "data-free-cifar10", "data-free-cifar100", "data-free-imagenet"
COMPARED = ("conventional", "intra-fusion")
OF_DATASET = {"cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet": IMAGENET}
# Built-in experiments; rows of one are of no other's tables.
EXPERIMENTS = {
    "allocations",
    *OF_DATASET.values(),
    "barriers",
    "compensation",
    "distributions",
    "fine-tuned",
    "fused-halves",
    "landscapes",
    "methods",
    "output-distances",
    "quickstart",
    "split-data",
    "split-data-folds",
}


@dataclass(frozen=True)
class View:
    """What of a run one of the paper's results is about.

    Rows of the built-in experiment count, also at a smaller scale, and rows of the same network and data set. Without
    split models of all these `folds` there is nothing.

    Attributes:
        id: of the result.
        experiment: the built-in one.
        dataset: its data set.
        networks: names; empty is all.
        criteria, methods, splits, folds: values; empty is all.
        groups: numbers; empty is all.
    """

    id: str
    experiment: str
    dataset: str = "cifar10"
    networks: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()

    def of(self, tables: Tables) -> Tables:
        """The tables with these rows alone."""
        frames = {each.name: getattr(tables, each.name) for each in fields(tables)}
        chosen = {name: frame[self.mask(frame)] for name, frame in frames.items() if isinstance(frame, pd.DataFrame)}
        if not set(self.folds) <= {0, *chosen["evaluations"]["folds"]}:
            chosen = {name: frame[:0] for name, frame in chosen.items()}
        # The plan is needed whole, to follow the inputs of stages.
        return replace(tables, **{**chosen, "plan": tables.plan})

    def mask(self, frame: pd.DataFrame) -> pd.Series:
        """Which rows of a table belong."""
        network = frame["network"].astype(str).str.replace(r"-w[\d.]+$", "", regex=True)
        experiment = frame["experiment"].astype(str)
        of_others = experiment.isin(EXPERIMENTS - {self.experiment})
        own = experiment.str.fullmatch(f"{self.experiment}(-[^-]+)?") & ~of_others
        same = frame["dataset"] == self.dataset
        if self.networks:
            named = network.isin(self.networks)
            same &= named
            # At a small scale another network may stand for a large one.
            own &= named if (own & named).any() else True
        mask = own | same
        wanted = {
            "criterion": self.criteria,
            "method": self.methods,
            "split": self.splits,
            "folds": self.folds,
            "group": self.groups,
        }
        for column, values in wanted.items():
            if values:
                mask &= frame[column].isin(values) | frame[column].isna()
        return mask

    def make(self, make: Make) -> Make:
        """Restrict an exhibit to this view's rows; prefix file names with its id, and with the data set where that is
        not the paper's."""

        def these(tables: Tables) -> Iterator[Item]:
            chosen = self.of(tables)
            others = sorted({*chosen.evaluations["dataset"]} - {self.dataset})
            led = "-".join([self.id, *(f"on-{name}" for name in others)])
            return ((f"{led}-{name}", item) for name, item in make(chosen))

        return these


def paper(shows: str, make: Make, view: View) -> tuple[str, Exhibit]:
    """An entry for one of the paper's results."""
    shows = f"{view.id.replace('-', ' ', 1).capitalize()}: {shows}"
    return view.id, Exhibit(shows, f"the experiment {view.experiment}", view.make(make), view.experiment)


def beside_published(make: Make, table: int) -> Make:
    """Also yield the paper's printed numbers beside the measured ones."""
    return lambda tables: itertools.chain(make(tables), reproduction.published_cells(tables, table))


def data_free_tables() -> Iterator[tuple[str, Exhibit]]:
    """Tables 5 and 10–21, each with the networks, criteria and groups that the paper prints there."""
    for table, rows in published.comparisons().query("stage == 'pruned'").groupby("table"):
        network, dataset = rows["network"].iloc[0], rows["dataset"].iloc[0]
        criteria, groups = tuple(rows["criterion"].unique()), tuple(sorted(rows["group"].unique()))
        view = View(
            f"table-{table}",
            OF_DATASET[dataset],
            dataset,
            networks=(network,),
            criteria=criteria,
            methods=COMPARED,
            groups=groups,
        )
        shows = (
            f"{network} on {dataset}, groups {groups[0]} to {groups[-1]}, {', '.join(criteria)}: conventional pruning "
            f"against Intra-Fusion, without fine-tuning"
        )
        yield paper(shows, beside_published(grids.data_free_table, table), view)


BOTH = ("vgg11_bn", "resnet18")
UNIONS = ("unions",)
PAPER: dict[str, Exhibit] = dict(
    [
        paper(
            "fine-tuned: conventional pruning against Intra-Fusion",
            beside_published(pipelines.fine_tuned_table, 1),
            View("table-1", "fine-tuned", networks=BOTH, criteria=("l1",), methods=COMPARED),
        ),
        paper(
            "Intra-Fusion by source and target distribution, six ResNet18",
            ANY_RUN["distributions"].make,
            View("table-4", "distributions", networks=("resnet18",)),
        ),
        *data_free_tables(),
        paper(
            "split models of two folds, by seed",
            models.seeds_table,
            View("table-6", "split-data", splits=UNIONS, folds=(2,)),
        ),
        paper(
            "split models of four folds",
            models.seeds_table,
            View("table-7", "split-data-folds", splits=UNIONS, folds=(4,)),
        ),
        paper("whole-data models, by seed", models.seeds_table, View("table-8", "split-data", folds=(0,))),
        paper("neuron sparsity as weight sparsity", models.sparsity_table, View("table-9", CIFAR10)),
        paper("mass of the neurons of each group", ANY_RUN["masses"].make, View("figure-2", CIFAR10, criteria=("l1",))),
        paper(
            "accuracy against neuron sparsity on CIFAR-10",
            grids.data_free_figure,
            View("figure-3", CIFAR10, networks=BOTH),
        ),
        paper(
            "accuracy against neuron sparsity on ImageNet",
            grids.data_free_figure,
            View("figure-4", IMAGENET, "imagenet", networks=("resnet50",)),
        ),
        paper(
            "output distances, VGG11-BN",
            comparisons.distance_figures,
            View("figure-5", "output-distances", networks=("vgg11_bn",)),
        ),
        paper(
            "output distances, ResNet18",
            comparisons.distance_figures,
            View("figures-8-14", "output-distances", networks=("resnet18",)),
        ),
        paper(
            "accuracy between the networks, VGG11-BN",
            comparisons.landscape_figures,
            View("figure-6", "landscapes", networks=("vgg11_bn",)),
        ),
        paper(
            "accuracy between the networks, ResNet18",
            comparisons.landscape_figures,
            View("figures-15-18", "landscapes", networks=("resnet18",)),
        ),
        paper(
            "Kruskal-Wallis p-values between distributions",
            ANY_RUN["distributions-figure"].make,
            View("figure-19", "distributions", networks=("resnet18",)),
        ),
        paper(
            "test accuracy by epoch, whole-data and split models",
            ANY_RUN["training"].make,
            View("figure-20", "split-data", splits=UNIONS, folds=(2,)),
        ),
        paper(
            "timeline of whole-data, FaP and PaF",
            runtime.runtime_figure,
            View("figure-22", "split-data", splits=UNIONS, folds=(2,)),
        ),
        paper(
            "whole-data, FaP and PaF with Intra-Fusion",
            pipelines.pipelines_figure,
            View("figure-23", "split-data", methods=("intra-fusion",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "the same with conventional pruning",
            pipelines.pipelines_figure,
            View("figure-24", "split-data", methods=("conventional",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "PaF minus whole-data by epochs, Intra-Fusion",
            pipelines.retraining_figure,
            View("figure-25", "split-data", methods=("intra-fusion",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "the same with conventional pruning",
            pipelines.retraining_figure,
            View("figure-26", "split-data", methods=("conventional",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "the cuts into two and four folds",
            models.splits_figure,
            View("figure-27", "split-data-folds", folds=(2, 4)),
        ),
        paper(
            "two folds against four",
            pipelines.pipelines_figure,
            View("figure-28", "split-data-folds", methods=("intra-fusion",), splits=UNIONS, folds=(2, 4)),
        ),
    ]
)
