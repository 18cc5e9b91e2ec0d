"""What a result was made with: versions, hardware and the commit."""

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from orchestrator.worker.hardware import device


def environment() -> dict[str, Any]:
    """A row of `environments` for this process and its present GPU; `environment` is the hash of the rest."""
    chosen = device()
    return environment_on(torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None)


@functools.cache
def environment_on(gpu: str | None) -> dict[str, Any]:
    """The same for a GPU by its name."""
    row: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "ray", "metaprune")},
        "platform": platform.platform(),
        "processor": processor(),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "git_commit": git_commit(),
    }
    key = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:12]
    return {"environment": key, **row}


def processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def git_commit() -> str | None:
    """The commit of metaprune's own checkout, with `+` where files were changed; None for an installed package."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() or None if commit.returncode == 0 else None
