"""The kinds of stages. Each module of this folder is one: its name is the kind's, and its `KIND` says what it does.

To add a kind, add a module; nothing else lists them. `resources` in an experiment takes its name at once.
"""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.worker.kind import Kind


@functools.cache
def kinds() -> Mapping[str, Kind]:
    """Every kind by its name, such as `fine-tune` for the module `fine_tune`."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in modules}
    return MappingProxyType({name.replace("_", "-"): module.KIND for name, module in found.items()})
