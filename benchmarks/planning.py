"""How planning grows with the grid: seconds to make a plan of 1k, 10k and 100k cells, and to find that all is done.

    python benchmarks/planning.py [--runs 3]

Prints medians of n runs side by side, with hardware and versions. No network is built and no Ray started.
"""

import argparse
import platform
import sys
import tempfile

from measuring import median_seconds

from orchestrator import Experiment
from orchestrator.driver import missing
from orchestrator.environment import processor
from orchestrator.facts import Facts, ModelFacts
from orchestrator.plan import make_plan
from orchestrator.store import Store

GROUPS = 20
FACTS = Facts(1, 32, 10, 1000, 500, "fingerprint", {"vgg11_bn": ModelFacts((64,) * GROUPS, 1_000_000, None, 0.001)}, {})


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    print(f"{processor()}, Python {platform.python_version()}, {sys.platform}, n = {runs}, medians")
    print(f"{'cells':>8} {'plan (s)':>9} {'cells/s':>9} {'all done (s)':>13}")
    for cells in (1_000, 10_000, 100_000):
        settings = experiment(cells)
        plan = make_plan(settings, FACTS)
        planning = median_seconds(lambda settings=settings: make_plan(settings, FACTS), runs)  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            keys = list(plan.stages)
            for start in range(0, len(keys), 64):
                store.write_rows("timings", str(start), [{"cell": key} for key in keys[start : start + 64]])
            assert missing(plan, store) == set()
            finding = median_seconds(lambda plan=plan, store=store: missing(plan, store), runs)  # type: ignore[misc]
        print(f"{plan.cells:>8} {planning:>9.2f} {plan.cells / planning:>9.0f} {finding:>13.2f}")


if __name__ == "__main__":
    main()
