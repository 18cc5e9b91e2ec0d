"""The name of a data set that is read from files, as results have it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

# Folders of the Hub whose names say nothing of what is in them.
NAMELESS = frozenset({"data", "default", "plain_text", "parquet"})
BUILDERS = frozenset({"parquet", "imagefolder", "image_folder", "arrow", "generator"})
# As the paper's tables have them, by their letters and digits.
KNOWN = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "imagenet": "imagenet",
    "imagenet1k": "imagenet",
    "mnist": "mnist",
    "fashionmnist": "fashion-mnist",
}
SNAPSHOT = re.compile(r"datasets--(?:.+?--)?(?P<name>.+)")


def name_of(base: Path) -> str:
    """The name of the data set in a folder.

    It is what `dataset_info.json` or the head of the Hub's README says, else the name of the repository in the Hub's
    cache, else that of the folder, or of the one around it where its own says nothing (`data`, `plain_text`).
    """
    base = Path(os.path.abspath(base))
    around = [base, base.parent] if base.name in NAMELESS or is_configuration(base) else [base]
    for folder in around:
        if name := described_name(folder):
            return name
    for folder in (base, *base.parents):
        if found := SNAPSHOT.fullmatch(folder.name):
            return known_name(found["name"])
    named = [folder.name for folder in around if folder.name not in NAMELESS]
    return named[0] if named else base.name


def described_name(folder: Path) -> str:
    """What the files beside the data say of its name; empty where they say nothing."""
    for file in ("dataset_info.json", "dataset_infos.json"):
        described = _json(folder / file)
        for info in [described, *described.values()] if isinstance(described, dict) else []:
            for key in ("dataset_name", "builder_name"):
                name = info.get(key) if isinstance(info, dict) else None
                if isinstance(name, str) and name and name not in BUILDERS:
                    return known_name(name)
    head = readme_head(folder)
    for key in ("pretty_name", "paperswithcode_id"):
        name = head.get(key)
        if isinstance(name, str) and name.strip():
            return known_name(name)
    return ""


def is_configuration(folder: Path) -> bool:
    """Whether the README around a folder names it as one configuration of a data set of the Hub."""
    described = readme_head(folder.parent).get("dataset_info")
    several = described if isinstance(described, list) else [described]
    return folder.name in [info.get("config_name") for info in several if isinstance(info, dict)]


def readme_head(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a folder's README, as data sets of the Hub have it; empty elsewhere."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return {}
    return head if isinstance(head, dict) else {}


def known_name(name: str) -> str:
    """The name as this project writes it, where it knows it."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return KNOWN.get(plain, re.sub(r"[/\\\s]+", " ", name).strip())


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
