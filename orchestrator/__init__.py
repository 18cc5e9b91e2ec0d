"""Experiments of model compression, planned as content-addressed stages and run on Ray.

From Python: `from orchestrator import Experiment, run`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.driver import run
    from orchestrator.experiment import Experiment

__all__ = ["Experiment", "run"]


def __getattr__(name: str) -> Any:
    # Ray and PyTorch load only for those who run something, not for `import reports`.
    if name == "Experiment":
        from orchestrator.experiment import Experiment

        return Experiment
    if name == "run":
        from orchestrator.driver import run

        return run
    raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
