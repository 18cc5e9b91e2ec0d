"""Optimal transport between the neurons of a group: the cost matrix, the exact plan, and how both grow.

    python benchmarks/transport.py [--sizes 64 128 256 512 1024] [--runs 3] [--threads 2]
        [--clock wall|processor] [--out transport.parquet]

Costs are l1 distances between n unit vectors of 9n weights, as wide as 3×3 convolutions of n channels have them: as
`torch.cdist` gives all pairs of them, as metaprune does (the same numbers, each pair once) and as `torch.pdist` does
(another order of summation, so other last digits). Plans move n equal masses to m of the neurons, or, for `networks`,
to the n neurons of another network: by POT's network simplex, cold, and warm from the potentials of the next smaller m;
as an assignment, where n is a multiple of m; by `exact_plan`, which chooses. Memory is what `exact_plan` adds to a
fresh process. POT's `numThreads` has no effect since POT 0.9.7, so plans run on one thread.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import ot
import torch
from measuring import (
    CLOCKS,
    Table,
    Timed,
    announce,
    growth,
    in_fresh_process,
    largest_memory,
    machine,
    parser,
    side_by_side,
    write,
)
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from workloads.compression.transport import MAX_ITERATIONS, exact_plan, pairwise_distances, uniform

PROBLEMS = (("targets", 0.25), ("targets", 0.5), ("targets", 0.75), ("targets", 1.0), ("networks", 1.0))
WAYS = ("simplex", "warm", "assignment", "metaprune")
Costs = np.ndarray


def directions(n: int, seed: int = 0) -> Tensor:
    """(n, 9n) float32 unit vectors that resemble each other, as trained neurons do: 64 components and noise."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator)
    return torch.nn.functional.normalize(draw(n, 64) @ draw(64, 9 * n) + 3 * draw(n, 9 * n), dim=1)


def all_pairs(vectors: Tensor) -> Tensor:
    """The same costs by the library's function for two sets of vectors."""
    return torch.cdist(vectors, vectors, p=1.0, compute_mode="donot_use_mm_for_euclid_dist")


def simplex(costs: Costs, potentials: Costs | None = None) -> tuple[Costs, Costs]:
    """POT's plan for equal masses and its potentials of the sources, perhaps from such potentials on."""
    n, m = costs.shape
    start = None if potentials is None else (potentials, (costs - potentials[:, None]).min(0))
    masses = np.full(n, 1 / n), np.full(m, 1 / m)
    plan, log = ot.emd(*masses, costs, numItermax=MAX_ITERATIONS, log=True, potentials_init=start)
    return plan, log["u"]


def assigned(costs: Costs) -> Costs:
    """The plan for n = k·m equal masses, as an assignment to k copies of each target."""
    n, m = costs.shape
    sources, copies = linear_sum_assignment(np.repeat(costs, n // m, axis=1))
    plan = np.zeros((n, m))
    plan[sources, copies // (n // m)] = 1 / n
    return plan


def memory(n: int, m: int) -> float:
    """MiB that one plan adds to this process, after a small one that loads what it needs."""
    exact_plan(uniform(2), uniform(1), torch.rand(2, 1))
    exact_plan(uniform(2), uniform(2), torch.rand(2, 2))
    costs = torch.rand(n, m, dtype=torch.float64)
    before = largest_memory()
    exact_plan(uniform(n), uniform(m), costs)
    return largest_memory() - before


def measure_costs(table: Table, n: int, timed: Timed) -> None:
    """Add the row of n vectors; what is compared is equal."""
    vectors = directions(n)
    ours = pairwise_distances(vectors, 1.0)
    assert torch.equal(ours, all_pairs(vectors))
    torch.testing.assert_close(torch.pdist(vectors, 1.0), ours[*torch.triu_indices(n, n, 1)], rtol=1e-4, atol=0)
    taken = timed(
        {
            "cdist": lambda: all_pairs(vectors),
            "metaprune": lambda: pairwise_distances(vectors, 1.0),
            "pdist": lambda: torch.pdist(vectors, 1.0),
        }
    )
    table.add(n=n, d=9 * n, **in_milliseconds(taken), ratio=taken["cdist"] / taken["metaprune"])


def ways(cost: Tensor, potentials: Costs | None) -> dict[str, Callable[[], Costs]]:
    """How to find the plan for a cost matrix, as far as they apply."""
    n, m = cost.shape
    costs = cost.numpy()
    found: dict[str, Callable[[], Costs]] = {
        "simplex": lambda: simplex(costs)[0],
        "metaprune": lambda: exact_plan(uniform(n), uniform(m), cost).numpy(),
    }
    if potentials is not None:
        found["warm"] = lambda: simplex(costs, potentials)[0]
    if n % m == 0:
        found["assignment"] = lambda: assigned(costs)
    return found


def measure_plans(table: Table, n: int, timed: Timed) -> None:
    """Add the rows of n sources; every way gives a plan of the same cost."""
    among = pairwise_distances(directions(n), 1.0).double()
    across = torch.cdist(directions(n), directions(n, seed=1), p=1.0).double()
    potentials = None
    for kind, share in PROBLEMS:
        m = int(share * n)
        cost = among[:, :m].contiguous() if kind == "targets" else across
        found = ways(cost, potentials if kind == "targets" else None)
        least, *others = (float((way() * cost.numpy()).sum()) for way in found.values())
        assert np.allclose(others, least, rtol=1e-9, atol=0)
        potentials = simplex(cost.numpy())[1]
        taken = dict.fromkeys(WAYS, float("nan")) | timed(found)
        added = in_fresh_process(memory, n, m)
        ratio = taken["simplex"] / taken["metaprune"]
        table.add(to=kind, n=n, m=m, **in_milliseconds(taken), ratio=ratio, MiB=added)


def in_milliseconds(taken: dict[str, float]) -> dict[str, float]:
    """The same times with their unit in the name."""
    return {f"{name} (ms)": 1000 * value for name, value in taken.items()}


def print_growth(costs: Table, plans: Table) -> None:
    """Fit powers of n, from 256 on, where fixed costs are small."""
    print("\nGrowth from n = 256 on, fitted: time and memory are proportional to n to the power of")
    rows = [row for row in costs.rows if row["n"] >= 256]
    print(f"  cost matrix: {growth([row['n'] for row in rows], [row['metaprune (ms)'] for row in rows]):.2f}")
    for kind, share in PROBLEMS:
        rows = [row for row in plans.rows if (row["to"], row["m"]) == (kind, int(share * row["n"])) and row["n"] >= 256]
        sizes = [row["n"] for row in rows]
        time, added = (growth(sizes, [row[name] for row in rows]) for name in ("metaprune (ms)", "MiB"))
        print(f"  plan onto {kind}, m = {share:g} n: {time:.2f}, memory {added:.2f}")


def main() -> None:
    arguments = parser(__doc__, "transport.parquet")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="n; also try 4096")
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="processor where other programs run too")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    settings = ("threads", "runs", "clock")
    conditions = machine("torch", "POT", "scipy") | {name: getattr(options, name) for name in settings}
    announce(conditions)
    timed = partial(side_by_side, runs=options.runs, clock=CLOCKS[options.clock])
    costs, plans = Table("Cost matrix of n vectors of d weights"), Table("Exact plan from n to m equal masses")
    for n in options.sizes:
        measure_costs(costs, n, timed)
    for n in options.sizes:
        measure_plans(plans, n, timed)
    if len([n for n in options.sizes if n >= 256]) > 1:
        print_growth(costs, plans)
    write(options.out, conditions, costs, plans)


if __name__ == "__main__":
    main()
