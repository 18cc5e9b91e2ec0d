"""Experiments of model compression, planned as content-addressed stages and run on Ray.

From Python: `from metaprune import Experiment, run`.
"""

from typing import TYPE_CHECKING, Any

from workloads import moved

if TYPE_CHECKING:
    from orchestrator.running.driver import run
    from orchestrator.settings.experiment import Experiment

__all__ = ["Experiment", "run"]

moved.keep_old_names("orchestrator", moved.ORCHESTRATOR)


def __getattr__(name: str) -> Any:
    # Ray and PyTorch load only for those who run something, not for `import reports`.
    if name == "Experiment":
        from orchestrator.settings.experiment import Experiment

        return Experiment
    if name == "run":
        from orchestrator.running.driver import run

        return run
    raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
