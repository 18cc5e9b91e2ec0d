"""Which settings the result of a stage depends on, as text for the column `settings` of the results.

Together with the other coordinates they tell any two stages apart that have different keys, so that nobody has to
follow the inputs of stages to learn why two rows differ.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.planning.facts import Facts
from orchestrator.settings.experiment import Experiment
from orchestrator.stages import kinds
from workloads.config import ChoiceConfig, Config, ModelConfig


class AppliedSettings:
    """The settings of one model's stages in an experiment, those of their inputs included."""

    def __init__(self, experiment: Experiment, facts: Facts, model: ModelConfig):
        """Take what the stages of `model` read."""
        self.code = facts.code
        self.known: dict[tuple[Any, ...], str] = {}  # whole grids share them
        self.sections = {
            "dataset": dotted("dataset", experiment.dataset, "root", "stream")
            | {"dataset.fingerprint": facts.fingerprint, **facts.published}
            | self.code_of("dataset", experiment.dataset.name),
            "model": dotted("model", model, "checkpoint", "checkpoints") | self.code_of("model", model.name),
            "training": dotted("training", experiment.training),
            "measuring": dotted("measuring", experiment.measuring),
            "fine_tuning": dotted("fine_tuning", experiment.fine_tuning),
        }

    def code_of(self, part: str, name: str) -> dict[str, str]:
        """The digest of the user's own code under this name, where it is that."""
        return {f"{part}.code": self.code[name]} if name in self.code else {}

    def of_choice(self, part: str, choice: ChoiceConfig) -> dict[str, str]:
        """What the label of a criterion or method does not tell: the module of the user's own, and its digest."""
        return {f"{part}.name": choice.name, **self.code_of(part, choice.name)} if ":" in choice.name else {}

    def text(self, kind: str, inputs: Sequence[str], more: Mapping[str, Any]) -> str:
        """The settings of a stage as JSON, by their path in the experiment.

        Args:
            kind: of the stage.
            inputs: such texts of the stages that it reads.
            more: settings of its grid that are no coordinates.
        """
        asked = (kind, *inputs, *((name, repr(value)) for name, value in more.items()))
        if asked not in self.known:
            own = {f"version.{kind}": kinds()[kind].code_version, **more}
            for section in kinds()[kind].reads:
                own |= self.sections[section]
            self.known[asked] = joined(tuple(inputs), json.dumps(own, sort_keys=True))
        return self.known[asked]


@functools.lru_cache(maxsize=4096)
def joined(inputs: tuple[str, ...], own: str) -> str:
    """The settings of several inputs and a stage's own, which prevail; cached, since whole grids share them."""
    settings: dict[str, Any] = {}
    for text in (*inputs, own):
        settings |= json.loads(text)
    return json.dumps(settings, sort_keys=True)


def dotted(name: str, config: Config, *without: str) -> dict[str, Any]:
    """All settings of a part of the experiment by their paths: `training.epochs`."""
    settings = config.model_dump(mode="json", exclude=set(without))
    return {f"{name}.{key}": value for key, value in settings.items()}
