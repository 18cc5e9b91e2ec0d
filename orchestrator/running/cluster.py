"""The cluster as the driver sees it: what its nodes have, what tasks take of them, and what is lacking."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import ray

from orchestrator.running.local_ray import LocalRay
from orchestrator.running.progress import Progress
from orchestrator.settings.experiment import Experiment
from orchestrator.settings.resources import TaskConfig
from orchestrator.stages import kinds

Resources = Mapping[str, float]


class Cluster:
    """A view of the cluster, which may grow and shrink while a run goes on.

    Attributes:
        nodes: resources of each living node, under Ray's names.
        cpus, gpus: of all nodes together.
        window: tasks to have submitted at a time.
    """

    def __init__(self, experiment: Experiment, progress: Progress, local_ray: LocalRay | None = None):
        self.experiment, self.progress, self.local_ray = experiment, progress, local_ray
        self.nodes: list[dict[str, float]] = []
        self.cpus = self.gpus = 0.0
        self.window = 0
        self.lacking: set[str] = set()

    def check(self) -> None:
        """Notice that a local Ray has ended.

        Raises:
            ConnectionError: it has.
        """
        if self.local_ray:
            self.local_ray.check()

    def look(self, in_flight: Collection[str]) -> bool:
        """See what the cluster has now; whether it can run tasks.

        Args:
            in_flight: kinds of the tasks that have been submitted. A user is told where no node could run one.

        Raises:
            ConnectionError: the driver's own node is dead. Ray would wait for another one for ever.
        """
        alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        if ray.get_runtime_context().get_node_id() not in alive:
            raise ConnectionError("Ray has ended while the run went on (the node of this driver has died)")
        self.nodes = list(alive.values())
        self.cpus, self.gpus = (sum(node.get(name, 0.0) for node in self.nodes) for name in ("CPU", "GPU"))
        self.window = self.experiment.resources.window or max(16, 4 * int(self.cpus))
        if not self.cpus:
            # An autoscaler starts nodes for tasks that wait; as none is submitted yet, it has to be asked.
            if self.notes("nodes", "the cluster has no node for tasks yet: waiting for one"):
                ask_for_cpus(1)
            return False
        self.let_go()
        for kind in in_flight:
            wanted, count = self.reserved(kind), self.processes(kind)
            if taken([dict(node) for node in self.nodes], wanted, count):
                self.lacking.discard(kind)
                continue
            amounts = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
            lack = (
                f"no node has what a task of kind {kind} reserves ({amounts}): waiting for one"
                if count == 1
                else f"the nodes do not have what {count} workers of kind {kind} reserve ({amounts} each): waiting for "
                f"more"
            )
            self.notes(kind, f"{lack}; resources.{kind.replace('-', '_')} in the experiment says how much that is")
        return True

    def answers(self) -> bool:
        """Whether the node of this driver is still one of the cluster's.

        Raises:
            ConnectionError: a local Ray has ended.
        """
        self.check()  # the question takes a minute where nobody answers
        here = ray.get_runtime_context().get_node_id()
        return any(node["Alive"] and node["NodeID"] == here for node in ray.nodes())

    def notes(self, what: str, text: str) -> bool:
        """Say once that something is lacking; whether it was said now."""
        if what in self.lacking:
            return False
        self.lacking.add(what)
        self.progress.note(text)
        return True

    def let_go(self) -> None:
        """Take back what an autoscaler was asked for."""
        if "nodes" in self.lacking:
            self.lacking.discard("nodes")
            ask_for_cpus(0)

    def processes(self, kind: str) -> int:
        """How many processes work on a stage of this kind together."""
        return self.experiment.resources.task(kind).processes

    def reserved(self, kind: str) -> dict[str, float]:
        """What each process of a task of this kind takes: CPU, GPU, and memory in bytes, under Ray's names."""
        return reserved(self.experiment.resources.task(kind), kinds()[kind].gpus if self.gpus else 0.0)

    def largest_node_for(self, wanted: Resources) -> float:
        """The CPUs of the largest node that has room for these resources."""
        return max((node["CPU"] for node in self.nodes if fits(node, wanted)), default=wanted["CPU"])

    def at_work(self, in_flight: Iterable[str]) -> Counter[str]:
        """Tasks that run now, by kind: of those in flight, given by kind, the oldest for which nodes have room."""
        free, running = [dict(node) for node in self.nodes], Counter[str]()
        for kind in in_flight:
            running[kind] += taken(free, self.reserved(kind), self.processes(kind))
        return +running


def reserved(task: TaskConfig, gpus: float) -> dict[str, float]:
    """What each process of a task takes: CPU, GPU, and memory in bytes, under Ray's names.

    Args:
        gpus: of a process, where the settings do not say.
    """
    chosen = gpus if task.gpus is None else task.gpus / task.processes
    if task.processes > 1:
        chosen = float(chosen > 0)
    memory = int((task.memory or 0) * 2**30 / task.processes)
    return {"CPU": task.cpus_each, "GPU": chosen, "memory": memory}


def taken(free: Sequence[dict[str, float]], wanted: Resources, count: int) -> bool:
    """Take resources of nodes for so many processes; where there is not enough for all, take none.

    Returns:
        Whether there was enough.
    """
    chosen: list[dict[str, float]] = []
    for node in free:
        while len(chosen) < count and fits(node, wanted):
            chosen.append(node)
            for name, amount in wanted.items():
                node[name] = node.get(name, 0.0) - amount
    if len(chosen) == count:
        return True
    for node in chosen:
        for name, amount in wanted.items():
            node[name] += amount
    return False


def fits(node: Resources, wanted: Resources) -> bool:
    """Whether a node has all of these resources."""
    return all(node.get(name, 0.0) >= amount for name, amount in wanted.items())


def ask_for_cpus(number: int) -> None:
    """Let an autoscaling cluster have at least so many, whatever waits for them."""
    from ray.autoscaler.sdk import request_resources  # here, as a local run never needs it

    request_resources(num_cpus=number)
