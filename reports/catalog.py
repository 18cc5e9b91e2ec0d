"""The results that a report can hold, by id: those of any run, and the paper's tables and figures."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import pandas as pd

from reports import comparisons, grids, published, runtime, tradeoffs
from reports.grids import Item
from reports.selection import Tables

Make = Callable[[Tables], Iterator[Item]]
CIFAR10, CIFAR100, IMAGENET = "data-free-cifar10", "data-free-cifar100", "data-free-imagenet"
COMPARED = ("conventional", "intra-fusion")
EXPERIMENTS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet": IMAGENET}


@dataclass(frozen=True)
class Result:
    """One entry of the catalogue.

    Attributes:
        shows: one sentence.
        needs: what an experiment must have for it.
        make: yields names and figures or tables; nothing where data is missing.
        experiment: a built-in one that makes the data.
    """

    shows: str
    needs: str
    make: Make
    experiment: str = "quickstart"


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
        of_others = experiment.isin({result.experiment for result in RESULTS.values()} - {self.experiment})
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
        """The same figures and tables of these rows alone, their names led by the id and, where that is another one
        than the paper's, by the data set."""

        def these(tables: Tables) -> Iterator[Item]:
            chosen = self.of(tables)
            others = sorted({*chosen.evaluations["dataset"]} - {self.dataset})
            led = "-".join([self.id, *(f"on-{name}" for name in others)])
            return ((f"{led}-{name}", item) for name, item in make(chosen))

        return these


def paper(shows: str, make: Make, view: View) -> tuple[str, Result]:
    """An entry for one of the paper's results."""
    shows = f"{view.id.replace('-', ' ', 1).capitalize()}: {shows}"
    return view.id, Result(shows, f"the experiment {view.experiment}", view.make(make), view.experiment)


def beside_published(make: Make, table: int) -> Make:
    """The same, and the cells of this table of the paper's with what it prints."""
    return lambda tables: itertools.chain(make(tables), grids.published_cells(tables, table))


def data_free_tables() -> Iterator[tuple[str, Result]]:
    """Tables 5 and 10–21, each with the networks, criteria and groups that the paper prints there."""
    for table, rows in published.comparisons().query("stage == 'pruned'").groupby("table"):
        network, dataset = rows["network"].iloc[0], rows["dataset"].iloc[0]
        criteria, groups = tuple(rows["criterion"].unique()), tuple(sorted(rows["group"].unique()))
        view = View(
            f"table-{table}",
            EXPERIMENTS[dataset],
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


EACH_GROUP, ALL_GROUPS, TUNED = "a data-free grid of each group", "a data-free grid of all groups", "a fine-tuned grid"
SPLIT = "pipelines fap or paf"

ANY_RUN: dict[str, Result] = {
    "models": Result("accuracy and size of the unpruned models", "any experiment", grids.models_table),
    "models-by-seed": Result("accuracy of the trained models by seed", "any experiment", grids.seeds_table),
    "training": Result(
        "test accuracy by epoch of the models trained from scratch",
        "trainings of more than an epoch",
        runtime.training_figure,
    ),
    "splits": Result("what of the training set each split model sees", SPLIT, grids.splits_figure),
    "split-training": Result("how many split models were trained at a time", SPLIT, runtime.overlap_table),
    "data-free-figure": Result(
        "accuracy against neuron sparsity, a group at a time", EACH_GROUP, grids.data_free_figure
    ),
    "data-free-table": Result(
        "accuracy of each method a group at a time, and the gain of Intra-Fusion", EACH_GROUP, grids.data_free_table
    ),
    "data-free-mean": Result(
        "accuracy of each method a group at a time, mean over the groups", EACH_GROUP, grids.data_free_mean_table
    ),
    "whole-network-figure": Result(
        "accuracy against neuron sparsity when all groups are pruned", ALL_GROUPS, grids.whole_network_figure, "methods"
    ),
    "whole-network-table": Result(
        "accuracy of each method when all groups are pruned", ALL_GROUPS, grids.whole_network_table, "methods"
    ),
    "pipelines-figure": Result("whole-data, FaP and PaF against weight sparsity", TUNED, grids.pipelines_figure),
    "pipelines-table": Result("accuracy of whole-data, FaP and PaF after fine-tuning", TUNED, grids.pipelines_table),
    "retraining": Result(
        "PaF against whole-data by epochs of retraining", f"{TUNED} of paf and whole-data", grids.retraining_figure
    ),
    "timeline": Result("the stages of whole-data, FaP and PaF in time", TUNED, runtime.runtime_figure),
    "runtime": Result("seconds and speed-ups of the pipelines", TUNED, runtime.runtime_table),
    "masses": Result(
        "how the importance lies on the neurons of each group",
        "a grid with importances: true",
        comparisons.mass_figures,
        CIFAR10,
    ),
    "output-distances-figure": Result(
        "distances of the outputs to those before pruning",
        "a grid with output_distances: true",
        comparisons.distance_figures,
        "output-distances",
    ),
    "output-distances": Result(
        "the means of these distances",
        "a grid with output_distances: true",
        comparisons.distance_table,
        "output-distances",
    ),
    "landscapes": Result(
        "accuracy over the plane through the original and two pruned networks",
        "a grid with landscape: {}",
        comparisons.landscape_figures,
        "landscapes",
    ),
    "distributions": Result(
        "accuracy of Intra-Fusion by source and target distribution",
        "a data-free grid with Intra-Fusion's marginals, several seeds",
        comparisons.distributions_table,
        "distributions",
    ),
    "distributions-figure": Result(
        "Kruskal-Wallis p-values between these distributions",
        "a data-free grid with Intra-Fusion's marginals, several seeds",
        comparisons.distributions_figure,
        "distributions",
    ),
    **{
        f"accuracy-against-{name}": Result(
            f"accuracy against {name.replace('-', ' ').replace('macs', 'MACs')}, and the Pareto front",
            "a grid of all groups",
            grids.accuracy_against(name),
            "methods",
        )
        for name in tradeoffs.COSTS
    },
    "ranks": Result("methods over all cells", "a grid with two methods", grids.ranks_tables),
    "reproduction": Result(
        "measured beside published",
        "a width-1 model, data set and grid of the paper",
        grids.reproduction_tables,
        CIFAR10,
    ),
    "cells": Result("every measured network, its accuracy and its costs", "any experiment", grids.all_cells),
}

BOTH = ("vgg11_bn", "resnet18")
UNIONS = ("unions",)
PAPER: dict[str, Result] = dict(
    [
        paper(
            "fine-tuned: conventional pruning against Intra-Fusion",
            beside_published(grids.fine_tuned_table, 1),
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
            grids.seeds_table,
            View("table-6", "split-data", splits=UNIONS, folds=(2,)),
        ),
        paper(
            "split models of four folds",
            grids.seeds_table,
            View("table-7", "split-data-folds", splits=UNIONS, folds=(4,)),
        ),
        paper("whole-data models, by seed", grids.seeds_table, View("table-8", "split-data", folds=(0,))),
        paper("neuron sparsity as weight sparsity", grids.sparsity_table, View("table-9", CIFAR10)),
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
            grids.pipelines_figure,
            View("figure-23", "split-data", methods=("intra-fusion",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "the same with conventional pruning",
            grids.pipelines_figure,
            View("figure-24", "split-data", methods=("conventional",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "PaF minus whole-data by epochs, Intra-Fusion",
            grids.retraining_figure,
            View("figure-25", "split-data", methods=("intra-fusion",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "the same with conventional pruning",
            grids.retraining_figure,
            View("figure-26", "split-data", methods=("conventional",), splits=UNIONS, folds=(2,)),
        ),
        paper(
            "the cuts into two and four folds", grids.splits_figure, View("figure-27", "split-data-folds", folds=(2, 4))
        ),
        paper(
            "two folds against four",
            grids.pipelines_figure,
            View("figure-28", "split-data-folds", methods=("intra-fusion",), splits=UNIONS, folds=(2, 4)),
        ),
    ]
)

RESULTS: dict[str, Result] = {**ANY_RUN, **PAPER}
# Figures of the paper that one entry holds together.
TOGETHER = {
    **{f"figure-{number}": "figures-8-14" for number in range(8, 15)},
    **{f"figure-{number}": "figures-15-18" for number in range(15, 19)},
}
