"""cluster.yaml against the schema that Ray's launcher validates with."""

import json
from pathlib import Path

import jsonschema
import ray
import yaml

ROOT = Path(__file__).parents[1]


def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_it_is_valid_for_rays_launcher() -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(cluster(), json.loads(schema.read_text()))


def test_the_head_runs_no_tasks_and_opens_no_dashboard() -> None:
    settings = cluster()
    assert settings["available_node_types"][settings["head_node_type"]]["resources"] == {"CPU": 0}
    assert "--dashboard-host=127.0.0.1" in " ".join(settings["head_start_ray_commands"])


def test_what_it_submits_exists() -> None:
    command = (ROOT / "cluster.yaml").read_text().partition("ray submit cluster.yaml ")[2].split()
    assert (ROOT / command[0]).is_file()
