"""Modules that do one thing otherwise than their class does, and stay instances of it that can be pickled."""

from typing import Any

from torch import nn

_CLASSES: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


class Extension(nn.Module):
    """What is put before a module's own class: its subclasses say what is done otherwise."""

    def __reduce__(self) -> Any:
        return _empty, type(self).__bases__, self.__dict__


def extended(extension: type[Extension], kind: type[nn.Module]) -> type[nn.Module]:
    """The class, one for all modules, that does what an extension says and is else of this kind."""
    if (extension, kind) not in _CLASSES:
        names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _CLASSES[extension, kind] = type(kind.__name__, (extension, kind), names)
    return _CLASSES[extension, kind]


def extend(module: nn.Module, extension: type[Extension]) -> None:
    """Give a module an extension, in place, unless it has it."""
    if not isinstance(module, extension):
        module.__class__ = extended(extension, type(module))


def _empty(extension: type[Extension], kind: type[nn.Module]) -> nn.Module:
    module: nn.Module = extended(extension, kind).__new__(extended(extension, kind))
    return module
