"""The rooms know only what they may know."""

import subprocess
import sys

import pytest


def imported_by(statement: str, blocked: str) -> set[str]:
    """Modules loaded after a statement, in a fresh interpreter where `blocked` cannot be imported."""
    code = f"import sys; sys.modules[{blocked!r}] = None; {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "workloads.datasets",
        "workloads.training",
        "workloads.fusion",
        "workloads.methods",
        "workloads.criteria",
        "workloads.checkpoints",
        "workloads.exporting",
        "workloads.repair",
    ],
)
def test_workloads_work_without_ray(module: str) -> None:
    assert module in imported_by(f"import {module}", blocked="ray")


def test_reports_need_neither_ray_nor_torch() -> None:
    loaded = imported_by("import sys; sys.modules['torch'] = None; import reports, reports.page", blocked="ray")
    assert "reports.page" in loaded


def test_reading_an_experiment_needs_neither_ray_nor_torch() -> None:
    statement = (
        "import sys; sys.modules['torch'] = None; from orchestrator import Experiment; Experiment.load('quickstart')"
    )
    assert "orchestrator.experiment" in imported_by(statement, blocked="ray")
