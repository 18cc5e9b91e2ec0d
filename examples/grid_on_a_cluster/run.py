"""Run the grid beside this script on a cluster, or here, and print what each method leaves.

    python examples/grid_on_a_cluster/run.py --address auto --out s3://bucket/runs/grid
    python examples/grid_on_a_cluster/run.py --scale small

`--address auto` is for a node of a running cluster; docs/clusters.md says how to start one, and how to send this script
there. All nodes have to reach `--out`.
"""

import argparse
import sys
from pathlib import Path

from metaprune import Experiment, load, run


def main() -> None:
    """Run what is missing, then print the mean accuracy of every method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="local", help="Ray cluster: auto, HOST:PORT, or local")
    parser.add_argument("--out", help="folder or URI of the run; default runs/NAME")
    parser.add_argument("--scale", help="a scale of the experiment, such as small")
    options = parser.parse_args()

    scale = [f"scale={options.scale}"] if options.scale else []
    experiment = Experiment.load(Path(__file__).with_name("experiment.yaml"), scale)
    # A second call continues where the first was stopped; done stages are not run again.
    result = run(experiment, address=options.address, out=options.out)
    for cell, error in result.failed.items():
        print(f"{cell} failed: {error}", file=sys.stderr)

    frame = load(result.run)
    cells = frame[frame["final"]]
    scope = cells["group"].isna().map({True: "all groups", False: "one group"})
    print(cells.groupby(["model", scope, "method", "repair"])["accuracy"].agg(["mean", "count"]).round(1).to_string())
    sys.exit(0 if result.complete else 1)


if __name__ == "__main__":
    main()
