"""`ray up`, `ray submit` and `ray down` from a desk, over SSH, with cluster-on-premise.yaml."""

import getpass
import sys
from pathlib import Path

import pytest
import yaml

from reports import load
from tests.cluster import hosts
from tests.cluster.hosts import Host, until
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(hosts.lacking() is not None, reason=str(hosts.lacking()))]


def filled_in(head: Host, workers: list[Host], key: Path) -> dict:
    """The launcher's file for these hosts, with this interpreter in place of a fresh environment."""
    settings = yaml.safe_load((ROOT / "cluster-on-premise.yaml").read_text())
    settings["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    settings["auth"] = {"ssh_user": getpass.getuser(), "ssh_private_key": str(key)}
    settings["file_mounts"]["~/metaprune"] = str(ROOT)
    path = f"echo 'export PATH={Path(sys.executable).parent}:$PATH' >> ~/.bashrc"
    settings["setup_commands"] = [path, *(line for line in settings["setup_commands"] if "venv" not in line)]
    return settings


def runs_ray(host: Host) -> bool:
    return host.run("pgrep", "raylet").returncode == 0


def test_up_submit_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with hosts.running(["desk", "head", "one", "two"], tmp_path) as (desk, head, *workers):
        file = tmp_path / "cluster.yaml"
        file.write_text(yaml.safe_dump(filled_in(head, workers, tmp_path / "key")))

        def ray(*arguments: str | Path) -> str:
            result = desk.run("ray", *arguments, timeout=400)
            assert result.returncode == 0, result.stdout + result.stderr
            return result.stdout

        ray("get-auth-token", "--generate")
        ray("up", file, "--yes", "--no-config-cache")
        options = ["--out", str(tmp_path / "run"), "--set", "seeds=[1]"]
        printed = ray(
            "submit", "--no-config-cache", file, "orchestrator/submit.py", "run", tmp_path / "tiny.yaml", *options
        )
        assert "9 stages done" in printed
        assert set(load(tmp_path / "run")["seed"]) == {1}
        until(lambda: all(runs_ray(worker) for worker in workers))
        for host in (head, *workers):
            assert host.run("bash", "-c", "test -f ~/metaprune/pyproject.toml").returncode == 0
        ray("down", file, "--yes")
        until(lambda: not any(runs_ray(host) for host in (head, *workers)))
