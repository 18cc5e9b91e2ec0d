"""The rooms know only what they may know."""

import subprocess
import sys

import pytest

BLOCKING = """
import importlib.abc
import sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def imported_by(statement: str, *blocked: str) -> set[str]:
    """Modules loaded after a statement, in a fresh interpreter where these packages cannot be imported."""
    code = f"{BLOCKING.format(names=blocked)}\n{statement}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_workloads_work_without_ray() -> None:
    modules = [
        "workloads.data.datasets",
        "workloads.training.loop",
        "workloads.fusion.fuse",
        "workloads.compression.methods",
        "workloads.compression.criteria",
        "workloads.networks.checkpoints",
        "workloads.networks.exporting",
        "workloads.measuring.shared_forward",
        "workloads.compression.repair",
    ]
    assert set(modules) <= imported_by(f"import {', '.join(modules)}", "ray")


def test_reports_need_neither_ray_nor_torch() -> None:
    assert "reports.page" in imported_by("import reports, reports.page", "ray", "torch")


def test_reading_an_experiment_needs_neither_ray_nor_torch() -> None:
    statement = "from orchestrator import Experiment; Experiment.load('quickstart')"
    assert "orchestrator.settings.experiment" in imported_by(statement, "ray", "torch")


def test_a_run_starts_without_what_only_some_stages_need() -> None:
    assert "workloads.structure.finding" in imported_by(
        "import orchestrator.running.driver", "torchvision", "sklearn", "ot"
    )


def test_what_is_blocked_cannot_be_imported() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        imported_by("import torch", "torch")
