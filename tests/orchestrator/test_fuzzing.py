"""Whatever stands in an experiment's file or a run's files is read as it should be or refused in plain words."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from orchestrator import Experiment
from orchestrator.settings.reading import built_in
from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import Store
from reports import load
from tests.conftest import TINY
from workloads.config import ModelConfig
from workloads.networks import checkpoints
from workloads.networks.checkpoints import Description
from workloads.networks.models import build
from workloads.training.snapshots import Snapshot

quickly = settings(max_examples=200, deadline=None, derandomize=True, database=None)

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
keys = st.text(max_size=6) | st.integers() | st.none() | st.sampled_from(["name", "model", "pruning", "0"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths to all values in nested mappings and lists."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


COMPLETE = Experiment.model_validate(TINY).model_dump(mode="json")


@st.composite
def mutated_experiments(draw: st.DrawFn) -> dict:
    """A complete experiment with some of its values, or whole branches, replaced, added or removed."""
    experiment: dict = copy.deepcopy(draw(st.sampled_from([TINY, COMPLETE])))
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(experiment))
        assume(found)
        *path, last = draw(st.sampled_from(found))
        node = experiment
        for key in path:
            node = node[key]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                node[last] = draw(values)
            case "remove":
                del node[last]
            case "add" if isinstance(node, dict):
                node[draw(keys)] = draw(values)
    return experiment


def refusal(read: Callable[[], object]) -> str | None:
    """What is said of bad content; None where it can be read. Whatever else is raised is a failure."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


def read_or_refused(text: str, overrides: tuple[str, ...] = ()) -> None:
    """Reading gives an experiment that says again what it is, or one sentence."""
    refused = refusal(lambda: Experiment.from_yaml(text, "mine.yaml", overrides))
    if refused is not None:
        assert "\n" not in refused
        return
    complete = Experiment.from_yaml(text, "mine.yaml", overrides).to_yaml()
    assert Experiment.from_yaml(complete, "again.yaml").to_yaml() == complete


@quickly
@given(st.text() | values.map(yaml.safe_dump))
@example("!!python/object/apply:os.system ['true']")
@example("a: &a [*a]")
def test_any_text_is_an_experiment_or_refused(text: str) -> None:
    read_or_refused(text)


@quickly
@given(mutated_experiments())
def test_a_changed_experiment_is_one_or_refused(experiment: dict) -> None:
    read_or_refused(yaml.safe_dump(experiment))


@quickly
@given(
    st.lists(
        st.text(max_size=12)
        | st.builds(
            lambda path, value: f"{'.'.join(path)}={value}",
            st.lists(st.sampled_from(["pruning", "0", "9", "model", "models", "name", "seeds", "", "x"]), max_size=3),
            st.text(max_size=6) | values.map(lambda v: yaml.safe_dump(v, default_flow_style=True).strip()),
        ),
        max_size=3,
    )
)
def test_any_override_is_followed_or_refused(overrides: list[str]) -> None:
    read_or_refused(yaml.safe_dump(TINY), tuple(overrides))


@quickly
@given(st.text(min_size=1, max_size=12))
@example("..")
@example("a/../../b")
@example("a\n")
def test_the_name_of_an_experiment_stays_in_its_folder(name: str) -> None:
    try:
        experiment = Experiment.model_validate({**TINY, "name": name})
    except ValueError:
        return
    assert Path("runs", experiment.name).resolve().parent == Path("runs").resolve()


Edit = tuple[list[tuple[int, bytes]], int]


def edits(content: bytes) -> st.SearchStrategy[Edit]:
    """Places with what to write there, more often near the beginning and end, and where to cut the bytes off."""
    size = len(content)
    place = st.integers(0, size) | st.integers(0, 256) | st.integers(max(0, size - 256), size)
    return st.tuples(st.lists(st.tuples(place, st.binary(min_size=1, max_size=4)), max_size=3), st.just(size) | place)


def edited(content: bytes, edit: Edit) -> bytes:
    """The bytes after an edit."""
    result = bytearray(content)
    for place, patch in edit[0]:
        result[place : place + len(patch)] = patch
    return bytes(result[: edit[1]])


def network() -> bytes:
    model = build(ModelConfig(name="resnet10", width=0.02), channels=1, classes=2)
    return checkpoints.dumps(model, Description({"name": "resnet10", "width": 0.02}, 1, 2, 100, (1, 1)))


NETWORK = network()


@quickly
@given(edits(NETWORK))
def test_a_changed_network_is_refused(edit: Edit) -> None:
    content = edited(NETWORK, edit)
    refused = refusal(lambda: checkpoints.loads(content, "file"))
    if refused is not None:
        assert "'file'" in refused
        return
    before, after = (checkpoints.loads(each, "file")[0].state_dict().values() for each in (NETWORK, content))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def snapshot() -> bytes:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    return Snapshot.take(model, optimizer, torch.Generator(), []).dumps()


SNAPSHOT = snapshot()


@quickly
@given(edits(SNAPSHOT))
def test_a_changed_snapshot_is_read_or_refused(edit: Edit) -> None:
    content = edited(SNAPSHOT, edit)
    refused = refusal(lambda: Snapshot.loads(content))
    if refused is not None:
        assert "snapshot" in refused
        return
    before, after = Snapshot.loads(SNAPSHOT), Snapshot.loads(content)
    assert before.history == after.history
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run with one row in each table."""
    store = Store(tmp_path_factory.mktemp("run"))
    for table in SCHEMAS:
        store.write_rows(table, "shard", [{"cell": "a"} if "cell" in SCHEMAS[table].names else {"environment": "e"}])
    return store


@quickly
@given(data=st.data(), table=st.sampled_from(["evaluations", "timings", "plan"]))
def test_a_changed_shard_is_read_or_refused(shards: Store, data: st.DataObject, table: str) -> None:
    parts = ("results", table, "shard.parquet")
    whole = shards.read(*parts)
    shards.write(edited(whole, data.draw(edits(whole))), *parts)
    named = f"table '{table}'"
    try:
        assert named in (refusal(lambda: load(shards.uri, table, everything=True)) or named)
        assert named in (refusal(lambda: load(shards.uri)) or named)
    finally:
        shards.write(whole, *parts)


def test_the_built_in_experiments_are_read() -> None:
    for name in built_in():
        assert Experiment.load(name).name == name
