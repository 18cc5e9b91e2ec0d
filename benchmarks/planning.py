"""How planning grows with the grid: seconds to make a plan of 1k, 10k and 100k cells, and to find that all is done.

    python benchmarks/planning.py [--runs 3] [--out planning.parquet]

No network is built and no Ray started.
"""

import tempfile
from collections.abc import Callable
from functools import partial

from measuring import Table, announce, machine, parser, side_by_side, write

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import Facts, ModelFacts
from orchestrator.running.driver import missing
from orchestrator.storage.store import Store

GROUPS = 20
FACTS = Facts(1000, 500, "fingerprint", {"vgg11_bn": ModelFacts((64,) * GROUPS, 1_000_000, None, 0.001)}, {})


def experiment(cells: int) -> Experiment:
    """A data-free grid of this many cells: groups × two methods × sparsities."""
    count = cells // (GROUPS * 2)
    sparsities = [round(number / count * 0.9, 6) for number in range(count)]
    return Experiment.model_validate(
        {
            "name": "planning",
            "dataset": {"name": "digits"},
            "model": {"name": "vgg11_bn"},
            "pruning": {"sparsities": sparsities},
        }
    )


def main() -> None:
    options = parser(__doc__, "planning.parquet").parse_args()
    conditions = machine("metaprune") | {"runs": options.runs}
    announce(conditions)
    table = Table("A plan, and finding that all of it is done")
    for cells in (1_000, 10_000, 100_000):
        settings = experiment(cells)
        plan = make_plan(settings, FACTS)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            keys = list(plan.stages)
            for start in range(0, len(keys), 64):
                store.write_rows("timings", str(start), [{"cell": key} for key in keys[start : start + 64]])
            assert missing(plan, store) == set()
            ways: dict[str, Callable[[], object]] = {
                "plan": partial(make_plan, settings, FACTS),
                "all done": partial(missing, plan, store),
            }
            taken = side_by_side(ways, options.runs)
        columns = {"plan (s)": taken["plan"], "cells/s": plan.cells / taken["plan"], "all done (s)": taken["all done"]}
        table.add(cells=plan.cells, **columns)
    write(options.out, conditions, table)


if __name__ == "__main__":
    main()
