"""Keys of stages stay what they are, so that runs of today go on.

`golden/stage_keys.json` holds, for each experiment, how many stages of each kind it has and a digest of all their keys.
The keys are those of version 0.1, made with the code versions that its kinds of stages had. A change that computes
something else raises the code version of its kind in `orchestrator/stages/`; then today's keys differ from these by the
code versions alone, which is what is tested. After a change of `KEY_SCHEMA` they would be made anew:

    python -m tests.orchestrator.test_keys
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import Facts, ModelFacts, gather
from orchestrator.planning.plan import Plan
from orchestrator.settings.reading import built_in
from orchestrator.stages import kinds

GOLDEN = Path(__file__).parents[1] / "golden" / "stage_keys.json"
VERSIONS = {
    "train": 3,
    "load": 1,
    "fuse": 3,
    "compress": 3,
    "fine-tune": 2,
    "importances": 2,
    "distances": 2,
    "landscape": 1,
}
OWN = """\
import torch


def biggest_bias(model, group):
    return torch.arange(group.size).float()
"""
OTHERS: dict[str, dict] = {
    "all-scopes": {
        "name": "all-scopes",
        "dataset": {"name": "digits", "size": 32, "mean": [0.3], "std": [0.2], "train_samples": 900},
        "models": [{"name": "vgg11_bn", "width": 0.25}, {"name": "resnet10", "options": {"a": 1}}],
        "seeds": [3, 4],
        "training": {"epochs": 3, "precision": "bfloat16", "weight_decay": 0.0005},
        "measuring": {"precision": "bfloat16"},
        "pruning": [
            {
                "groups": "all",
                "sparsities": [0.2, 0.6],
                "criteria": ["l1", "taylor", "random", {"name": "lamp", "restore_order": True}],
                "methods": ["conventional", {"name": "intra-fusion", "p": 2.0}, "reconstruction"],
                "repair": ["none", "data-free", "data"],
                "sparsity_of": "weights",
                "allocation": "global",
                "order": "input-first",
                "round_to": 8,
            },
            {"groups": [0, 2], "importances": True, "output_distances": True, "landscape": {"size": 3}},
        ],
    },
    "all-pipelines": {
        "name": "all-pipelines",
        "dataset": {"name": "cifar10"},
        "model": {"name": "vgg11_bn"},
        "pipelines": ["whole-data", "fap", "paf"],
        "splits": [{"folds": 4}, {"mode": "overlapping", "folds": 3, "share": 0.6}],
        "fusion": [{"alignment": "weights"}, {"alignment": "activations", "repair": False, "samples": 50}],
        "pruning": {"mode": "fine-tuned", "groups": "all", "sparsities": [0.5], "steps": 2},
        "fine_tuning": {"epochs": 4, "step_epochs": 1, "learning_rate": 0.02},
    },
    "from-a-checkpoint": {
        "name": "from-a-checkpoint",
        "dataset": {"name": "parquet", "root": "x"},
        "model": {"name": "vgg11_bn", "checkpoint": "w.safetensors"},
        "pruning": {"criteria": ["own:biggest_bias"], "methods": ["own:average", "folding"], "sparsities": [0.5]},
    },
}


def made_up_facts(experiment: Experiment) -> Facts:
    """What `gather` would find, without data and networks."""
    drawing = frozenset({"taylor", "hessian", "chip", "random", "elimination", "reconstruction"})
    networks = {
        model.name_in_results: ModelFacts((64, 32, 16), 10_000, "0123456789abcdef" if model.checkpoint else None, 0.001)
        for model in experiment.models
    }
    code = {"own:biggest_bias": "00aa", "own:average": "00bb"}
    return Facts(train=1000, test=100, fingerprint="f", models=networks, code=code, drawing=drawing)


def summary(plan: Plan) -> dict:
    """What has to stay of a plan."""
    keys = " ".join(sorted(plan.stages))
    return {"stages": dict(sorted(plan.count().items())), "keys": hashlib.sha256(keys.encode()).hexdigest()[:20]}


def built_in_experiments() -> dict[str, Experiment]:
    scales = {"": [], " at scale small": ["scale=small"]}
    return {
        f"{name}{scale}": Experiment.load(name, overrides)
        for name in built_in()
        for scale, overrides in scales.items()
        if not (name == "quickstart" and scale)
    }


def all_plans() -> dict[str, dict]:
    experiments = built_in_experiments() | {name: Experiment.model_validate(OTHERS[name]) for name in OTHERS}
    return {name: summary(make_plan(each, made_up_facts(each))) for name, each in experiments.items()}


def with_facts(folder: Path) -> dict[str, dict]:
    """Plans of the facts that metaprune finds itself: data, networks, the user's own code."""
    (folder / "own_criterion.py").write_text(OWN)
    grid = {"groups": [0, 1], "criteria": ["own_criterion:biggest_bias", "taylor", "random", "chip"]}
    own = {"name": "own", "dataset": {"name": "digits"}, "model": {"name": "resnet10", "width": 0.125}, "pruning": grid}
    experiments = {"quickstart": Experiment.load("quickstart"), "own": Experiment.model_validate(own)}
    return {f"{name}, facts gathered": summary(make_plan(each, gather(each))) for name, each in experiments.items()}


@pytest.fixture(autouse=True)
def _code_versions_of_0_1(monkeypatch: pytest.MonkeyPatch) -> None:
    older = {name: replace(kind, code_version=VERSIONS[name]) for name, kind in kinds().items() if name in VERSIONS}
    monkeypatch.setattr("orchestrator.planning.plan.kinds", lambda: {**kinds(), **older})


def test_code_versions_only_rise() -> None:
    assert all(kinds()[name].code_version >= version for name, version in VERSIONS.items())


@pytest.mark.parametrize("name", [*built_in_experiments(), *OTHERS])
def test_the_keys_of_an_experiment_stay(name: str) -> None:
    assert all_plans_once()[name] == json.loads(GOLDEN.read_text())[name]


def all_plans_once(found: dict[str, dict] = {}) -> dict[str, dict]:  # noqa: B006 - a cache
    if not found:
        found.update(all_plans())
    return found


def test_the_keys_of_gathered_facts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    golden = json.loads(GOLDEN.read_text())
    for name, found in with_facts(tmp_path).items():
        assert found == golden[name], name


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sys.path.append(folder)
        GOLDEN.write_text(json.dumps(all_plans() | with_facts(Path(folder)), indent=1) + "\n")
