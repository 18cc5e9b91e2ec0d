"""Which node and GPU each stage gets, on a cluster of several logical nodes and GPUs, from what its tasks recorded."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from orchestrator import Experiment, run
from orchestrator.running.progress import NoProgress
from reports import load
from tests.conftest import TINY, end_ray

FOLDS = 4
MEETING = """
import os, sys, time, torch

class Net(torch.nn.Sequential):
    def forward(self, x):
        if self.training and sys.argv[0].endswith("default_worker.py"):  # `plan` trains it a step, too
            open(os.path.join({folder!r}, str(os.getpid())), "w").close()
            deadline = time.monotonic() + 600
            while len(os.listdir({folder!r})) < {workers}:
                if time.monotonic() > deadline:
                    raise TimeoutError("the others do not train at the same time")
                time.sleep(0.05)
        return super().forward(x)

def net(*, in_channels, num_classes):
    nn = torch.nn
    layers = [nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Net(*layers, nn.Linear(8, num_classes))
"""


@pytest.fixture
def cluster():
    """A head without CPUs and two nodes of two GPUs, all on this machine."""
    end_ray()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=2, num_gpus=2, memory=4 * 2**30)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    end_ray()
    nodes.shutdown()


@pytest.mark.slow
def test_split_models_train_at_once_on_gpus_of_their_own(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training waits for the other three in its first step, so that they end only if all run at once."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    (tmp_path / "meeting_net.py").write_text(MEETING.format(folder=str(meeting), workers=FOLDS))
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {
        **TINY,
        "model": {"name": "meeting_net:net"},
        "pipelines": ["fap"],
        "splits": {"mode": "separate", "folds": FOLDS},
        "pruning": {"groups": [0], "sparsities": [0.3, 0.5], "criteria": ["l1", "l2", "linf", "random"]},
        "resources": {"compress": {"memory": 3}},
    }
    result = run(Experiment.model_validate(settings), out=tmp_path / "run", progress=NoProgress())
    assert result.complete, result.failed

    timings = load(tmp_path / "run", "timings")
    trained = timings[timings["kind"] == "train"]
    assert set(trained["training_data"]) == {f"subset-{number}" for number in range(1, FOLDS + 1)}
    assert trained["started"].max() < trained["finished"].min(), "all at the same time"
    places = set(zip(trained["node"], trained["gpus"], strict=True))
    assert cluster.head_node is not None
    head = cluster.head_node.node_id
    workers = {node.node_id for node in cluster.list_all_nodes()} - {head}
    assert places == set(itertools.product(workers, ["0", "1"]))
    assert set(timings["node"]) <= workers, "the head has no CPUs, so it runs nothing"
    assert timings["worker"].nunique() < FOLDS + 1 + 4, "processes with a GPU serve several tasks"
    pruned = timings[timings["kind"] == "compress"]
    assert (pruned["gpus"].str.len() == 1).all(), "a share of one GPU"
    pairs = pruned.merge(pruned, how="cross", suffixes=("", "_other"))
    elsewhere = (pairs["node"] != pairs["node_other"]) | (pairs["worker"] == pairs["worker_other"])
    apart = (pairs["finished"] <= pairs["started_other"]) | (pairs["finished_other"] <= pairs["started"])
    assert (elsewhere | apart).all(), "memory for one worker of a node at a time"


class Notes(NoProgress):
    """Keeps what is told, and calls a function with it."""

    def __init__(self, told: Callable[[str], None]) -> None:
        super().__init__()
        self.told = told
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.told(text)


@pytest.mark.slow
def test_a_cluster_that_grows_is_waited_for_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first there is no node for tasks, then one without a GPU, then one that has what trainings reserve."""
    monkeypatch.setattr("orchestrator.running.dispatch.LOOK_SECONDS", 1.0)
    end_ray()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=nodes.address, log_to_driver=False)

    def grow(text: str) -> None:
        if "no node for tasks yet" in text:
            nodes.add_node(num_cpus=1)
        if "kind train reserves (1 CPU, 1 GPU)" in text:
            nodes.add_node(num_cpus=1, num_gpus=1)

    view = Notes(grow)
    settings = {**TINY, "pruning": {"groups": [0], "sparsities": [0.5]}, "resources": {"train": {"gpus": 1}}}
    try:
        result = run(Experiment.model_validate(settings), out=tmp_path / "run", progress=view)
    finally:
        end_ray()
        nodes.shutdown()
    assert result.complete, result.failed
    assert len(view.notes) == 2, "each is told once"
    timings = load(tmp_path / "run", "timings").set_index("kind")
    assert timings.at["train", "gpus"] == "0"
    assert (timings.loc[["compress"], "gpus"].str.len() == 1).all(), "what came later is used"
