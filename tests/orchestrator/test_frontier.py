"""How the stages that can run are cut into tasks."""

import pytest

from orchestrator.planning.plan import Plan
from orchestrator.running.frontier import BATCH_SECONDS, BATCH_STAGES, Frontier


def grid(count: int, cost: float) -> Plan:
    """Stages that could all run in one task."""
    plan = Plan()
    for number in range(count):
        plan.add("compress", {"sparsity": number / count, "group": 0, "criterion": {"name": "l1"}}, (), {}, cost)
    return plan


def tasks(plan: Plan, workers: int) -> list[list[float]]:
    """The estimated seconds of the stages of each task, in the order in which they are sent."""
    frontier, sent = Frontier(plan, plan.stages.keys()), []
    while frontier:
        sent.append([stage.cost for stage in frontier.pop(workers)])
    assert sum(map(len, sent)) == len(plan.stages)
    return sent


@pytest.mark.parametrize(("workers", "first"), [(2, 12), (40, 2), (1000, 1)])
def test_tasks_of_slow_stages_are_large_while_much_is_left_for_each_worker(workers: int, first: int) -> None:
    sent = tasks(grid(320, 20.0), workers)
    assert len(sent[0]) == first
    seconds = [sum(task) for task in sent]
    assert max(seconds) <= BATCH_SECONDS[1]
    assert sorted(seconds, reverse=True) == seconds
    assert len(sent[-1]) == 1, "so that no worker is long alone at the end"


def test_tasks_of_quick_stages_hold_a_bounded_number() -> None:
    assert [len(task) for task in tasks(grid(200, 0.001), 2)] == [BATCH_STAGES] * 3 + [8]


def test_what_waits_for_a_failed_stage_is_no_work_that_is_left() -> None:
    plan = Plan()
    first = plan.add("train", {"seed": 0}, (), {}, 5.0)
    second = plan.add("train", {"seed": 1}, (), {}, 7.0)
    pruned = plan.add("compress", {"criterion": {"name": "l1"}}, (first,), {}, 10.0)
    plan.add("fuse", {}, (pruned, second), {}, 100.0)
    frontier = Frontier(plan, plan.stages.keys())
    assert frontier.unsent == 122.0
    assert frontier.block(first) == 110.0
    assert frontier.block(second) == 0.0, "what reads both is counted once"
    assert Frontier(plan, plan.stages.keys(), {first}).unsent == 7.0
    assert Frontier(plan, plan.stages.keys(), {second}).unsent == 15.0


def test_a_stage_that_takes_longer_than_a_task_should_is_a_task() -> None:
    assert tasks(grid(3, 1000.0), 2) == [[1000.0]] * 3
