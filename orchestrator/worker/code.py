"""Which code a process runs: a worker with another than its driver's would write other results under the same keys."""

import functools
import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from metaprune._packages import PACKAGES, ROOT


class OtherCodeError(RuntimeError):
    """A node runs other code than the driver."""


@functools.cache
def code_in_use() -> Mapping[str, str]:
    """The versions that results depend on, and a digest of metaprune's own source files, by what they are of."""
    total = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted(Path(ROOT, package).rglob("*.py")):
            total.update(f"{file.relative_to(ROOT)} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "PyTorch": torch.__version__.partition("+")[0],  # nodes with and without GPUs have builds of their own
        "metaprune's code (digest)": total.hexdigest()[:12],
    }


def check_same_code(driver: Mapping[str, str], node: str) -> None:
    """Make sure that this process runs what its driver runs.

    Args:
        driver: its `code_in_use`; empty is not compared.
        node: name of this one, for the message.

    Raises:
        OtherCodeError: names what differs.
    """
    here = code_in_use()
    for name, theirs in driver.items():
        if here.get(name) != theirs:
            raise OtherCodeError(
                f"node {node} runs {name} {here.get(name)}, and the driver {theirs}: install the same on all nodes, or "
                f"send your clone along with `ray job submit --working-dir`"
            )
