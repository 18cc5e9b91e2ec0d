"""Names for networks and methods that have equal coordinates but differ in a setting.

Rows that share all coordinates and the seed may still come from different stages: of two runs that differ in the
epochs of fine-tuning, say, or of two grids with other pruning steps. Such rows are variants, not repetitions. Each gets
a note with the fewest settings that tell it from the others, such as `steps=4`: the network does where the unpruned
networks differ already, the method elsewhere.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.storage.schema import COORDINATES

Settings = Mapping[str, Any]

NOT_COMPARED = {"experiment", "cell", "final", "neuron_sparsity", "settings"}
SAME = [column.name for column in COORDINATES if column.name not in NOT_COMPARED]
RECORDED_FOR_ALL = ("dataset", "training", "measuring")
IN_NO_KEY = {"dataset.root", "dataset.stream"}
DIGESTS = ("code", "fingerprint", "checkpoint")
DIGEST_LETTERS = 8
RUN = "run"


def notes(plan: pd.DataFrame, experiments: Mapping[str, Any], names: Mapping[str, str]) -> pd.DataFrame:
    """What has to stand beside each stage's network and method, so that no two variants share a name.

    Args:
        plan: the stages of all runs, with columns `kind`, `inputs`, `run` and the coordinates.
        experiments: the settings of each run, by its place, for runs that recorded none with their rows.
        names: of the runs, by their places.

    Returns:
        Index the cells; `network_note` and `note`, empty where the coordinates say enough.
    """
    stages = plan.drop_duplicates("cell").set_index("cell", drop=False)
    numbers, settings = settings_of_stages(stages, experiments, names)
    stages = stages.assign(variant=numbers)
    baseline = stages["stage"] == "baseline"
    network = pd.Series("", stages.index, dtype=object)
    for _, same in stages[baseline].groupby(["model", "dataset"], dropna=False):
        if telling := fewest_settings(variant_groups(same, settings)):
            place = same.iloc[0]
            here = (stages["model"] == place["model"]) & (stages["dataset"] == place["dataset"])
            network[here] = [note(settings[number], telling) for number in stages["variant"][here]]
    rest = stages[~baseline].assign(network_note=network[~baseline])
    beside = pd.Series("", stages.index, dtype=object)
    if telling := fewest_settings(variant_groups(rest, settings, "network_note")):
        beside[~baseline] = [note(settings[number], telling) for number in rest["variant"]]
    return pd.DataFrame({"network_note": network, "note": beside}, index=stages.index)


def settings_of_stages(
    stages: pd.DataFrame, experiments: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[pd.Series, list[Settings]]:
    """The settings that stages depend on by their path, and the name of their run.

    Runs of older versions did not record them: they get those of their experiment, and steps as their inputs tell.

    Returns:
        For each stage the place of its settings in a list, and the list.
    """
    recorded = stages[stages["settings"].notna()]
    sources = recorded.groupby(["settings", "run"], observed=True, sort=False)
    numbers = sources.ngroup()
    found: list[Settings] = [{**json.loads(text), RUN: names[run]} for text, run in sources.size().index]
    older = stages[stages["settings"].isna()]
    if older.empty:
        return numbers, found
    chains = Chains(stages)
    places: dict[tuple[Any, ...], int] = {}
    of_older = []
    for row in older[["cell", "kind", "run"]].itertuples(index=False):
        steps, tuned = chains.steps(row.cell), chains.tuned(row.cell)
        source = (row.run, row.kind == "train", steps, tuned)
        if source not in places:
            parts = RECORDED_FOR_ALL[: 2 if row.kind == "train" else 3] + ("fine_tuning",) * tuned
            experiment = experiments.get(row.run, {})
            own = {f"{part}.{key}": value for part in parts for key, value in experiment.get(part, {}).items()}
            own = {path: value for path, value in own.items() if path not in IN_NO_KEY}
            places[source] = len(found)
            found.append({**own, **({"pruning.steps": steps} if tuned and steps else {}), RUN: names[row.run]})
        of_older.append(places[source])
    return pd.concat([numbers, pd.Series(of_older, older.index)]).reindex(stages.index), found


class Chains:
    """How stages were made, from the inputs in a plan."""

    def __init__(self, stages: pd.DataFrame):
        """Take the stages with their kinds and inputs, index the cells."""
        self.kinds = stages["kind"].to_dict()
        self.inputs = {cell: list(() if inputs is None else inputs) for cell, inputs in stages["inputs"].items()}
        self.known: dict[str, tuple[int, bool]] = {}

    def steps(self, cell: str) -> int:
        """How often the network was pruned."""
        return self._known(cell)[0]

    def tuned(self, cell: str) -> bool:
        """Whether it was fine-tuned."""
        return self._known(cell)[1]

    def _known(self, cell: str) -> tuple[int, bool]:
        if cell not in self.known:
            before = [self._known(read) for read in self.inputs.get(cell, [])]
            steps = max((each[0] for each in before), default=0) + (self.kinds.get(cell) == "compress")
            tuned = any(each[1] for each in before) or self.kinds.get(cell) == "fine-tune"
            self.known[cell] = steps, tuned
        return self.known[cell]


def variant_groups(stages: pd.DataFrame, settings: Sequence[Settings], *further: str) -> list[list[Settings]]:
    """The different settings of stages that share kind, coordinates and seed, where there are several.

    Args:
        stages: with a column `variant`, the place of their settings.
    """
    columns = ["kind", *SAME, *further]
    # Rows of one landscape are stages that differ in no setting.
    kinds = stages.drop_duplicates([*columns, "variant"])
    kinds = kinds[kinds.duplicated(columns, keep=False)]
    shared = kinds.groupby(columns, dropna=False, sort=False)["variant"]
    several = {tuple(sorted(found)) for _, found in shared}
    return [[settings[number] for number in found] for found in sorted(several)]


def fewest_settings(groups: Iterable[Sequence[Settings]]) -> list[str]:
    """A small set of paths whose values tell all settings of each group apart, found greedily.

    What a user sets comes before digests of code and files, those before versions, and the run after these. Settings
    that some of a group lack come last: an older run may have had them without recording them.
    """
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    chosen: list[str] = []
    while pairs:
        paths = {path for pair in pairs for settings in pair for path in settings}
        worth = {path: found for path in paths if (found := worth_of(path, pairs))}
        if not worth:
            break  # nothing tells these apart: statistics refuse to average them
        chosen.append(min(worth, key=lambda path: (worth[path], path)))
        pairs = [(one, other) for one, other in pairs if not differ(one, other, chosen[-1])]
    return sorted(chosen)


def worth_of(path: str, pairs: Sequence[tuple[Settings, Settings]]) -> tuple[bool, int, int] | None:
    """How well a setting tells some pairs apart, the best first; None where it tells none."""
    told = sum(differ(one, other, path) for one, other in pairs)
    lacking = sum((path in one) != (path in other) for one, other in pairs)
    return (lacking > 0, rank(path), -told) if told else None


def differ(one: Settings, other: Settings, path: str) -> bool:
    """Whether two stages differ in a setting; one that lacks it differs from one that has it."""
    return bool(one.get(path, differ) != other.get(path, differ))


def rank(path: str) -> int:
    """How late a setting is used in a name."""
    if path == RUN:
        return 3
    if path.startswith("version."):
        return 2
    return int(path.rpartition(".")[2] in DIGESTS)


def note(settings: Settings, paths: Sequence[str]) -> str:
    """`steps=4, fine_tuning.epochs=3`: the values of some settings, as far as they apply."""
    return ", ".join(setting(path, settings[path]) for path in paths if path in settings)


def setting(path: str, value: object) -> str:
    """`steps=4`; a run by its name alone."""
    if path == RUN:
        return str(value)
    if path.rpartition(".")[2] in DIGESTS:
        value = str(value)[:DIGEST_LETTERS]
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{path.removeprefix('pruning.')}={text}"
