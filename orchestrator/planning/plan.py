"""From an experiment to its stages: a pure function, without files and without Ray.

A stage's key is the hash of its kind, the version of its code, its parameters that are not defaults, and the keys of
its inputs. Equal keys are the same work, done once however many cells share it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.stages import kinds

KEY_SCHEMA = 1
IDENTITY = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Stage:
    """One piece of work with one output.

    Attributes:
        kind: one of `orchestrator.stages.kinds()`, such as train or compress.
        parameters: JSON values that determine the output, defaults left out.
        inputs: keys of the stages whose networks it reads.
        labels: coordinates that its rows get; not in the key.
        cost: estimated seconds on one core; not in the key.
        key: 20 hexadecimal digits.
    """

    kind: str
    parameters: Mapping[str, Any]
    inputs: tuple[str, ...]
    labels: Mapping[str, Any]
    cost: float
    key: str = field(init=False)

    def __post_init__(self) -> None:
        identity = [KEY_SCHEMA, self.kind, kinds()[self.kind].code_version, self.parameters, self.inputs]
        text = IDENTITY.encode(identity)
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:20])

    @property
    def place(self) -> str:
        """What its rows are about, for messages: `vgg11_bn, seed 0, l1, folding, group 3, 50 %`."""
        names = ("pipeline", "training_data", "criterion", "method")
        parts = [
            self.labels.get("model"),
            f"seed {self.labels.get('seed')}",
            *(self.labels.get(name) for name in names),
        ]
        if self.labels.get("target_sparsity") is not None:
            group = self.labels.get("group")
            parts.append("all groups" if group is None else f"group {group}")
            parts.append(f"{100 * self.labels['target_sparsity']:g} %")
        return ", ".join(str(part) for part in parts if part is not None)

    @property
    def batch(self) -> tuple[str, Hashable]:
        """Stages with equal values run in one task, as their kind says."""
        return self.kind, kinds()[self.kind].shares_task(self)


@dataclass
class Plan:
    """All stages of an experiment, inputs before what reads them.

    Attributes:
        stages: by key.
        requested: number of stages before equal ones were shared.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    requested: int = 0

    def add(
        self, kind: str, parameters: dict[str, Any], inputs: tuple[str, ...], labels: dict[str, Any], cost: float
    ) -> str:
        """Add a stage unless an equal one is there; its key."""
        stage = Stage(kind, parameters, inputs, labels, cost)
        self.requested += 1
        known = self.stages.get(stage.key)
        if known is None or (labels.get("final") and not known.labels.get("final")):
            self.stages[stage.key] = stage
        return stage.key

    @property
    def cells(self) -> int:
        """Number of end results asked for."""
        return sum(bool(stage.labels.get("final")) for stage in self.stages.values())

    def count(self) -> Counter[str]:
        """Stages by kind."""
        return Counter(stage.kind for stage in self.stages.values())

    def priorities(self) -> dict[str, float]:
        """Seconds on the longest path from each stage to the end; what is longest should start first."""
        rest = dict.fromkeys(self.stages, 0.0)
        for stage in reversed(self.stages.values()):
            path = rest[stage.key] + stage.cost
            rest[stage.key] = path
            for key in stage.inputs:
                rest[key] = max(rest[key], path)
        return rest
