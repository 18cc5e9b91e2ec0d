"""cluster.yaml and cluster-on-premise.yaml against the schema that Ray's launcher validates with."""

import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]


FILES = ("cluster.yaml", "cluster-on-premise.yaml")


def cluster(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid_for_rays_launcher(name: str) -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(cluster(name), json.loads(schema.read_text()))


def test_the_head_runs_no_tasks() -> None:
    settings = cluster("cluster.yaml")
    assert settings["available_node_types"][settings["head_node_type"]]["resources"] == {"CPU": 0}
    assert "--num-cpus=0 --num-gpus=0" in " ".join(cluster("cluster-on-premise.yaml")["head_start_ray_commands"])


@pytest.mark.parametrize("name", FILES)
def test_no_dashboard_is_open_and_nodes_want_a_token(name: str) -> None:
    settings = cluster(name)
    assert "--dashboard-host=127.0.0.1" in " ".join(settings["head_start_ray_commands"])
    assert "export RAY_AUTH_MODE=token" in " ".join(settings["setup_commands"])
    assert settings["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", FILES)
def test_what_it_submits_exists(name: str) -> None:
    command = (ROOT / name).read_text().partition(f"ray submit {name} ")[2].split()
    assert (ROOT / command[0]).is_file()
