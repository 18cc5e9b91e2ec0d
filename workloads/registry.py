"""Finding a model, data set, criterion or method by its registered name or its import path."""

import difflib
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'l1'?`, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def lookup(registry: Mapping[str, Callable[..., Any]], name: str, kind: str) -> Callable[..., Any]:
    """The function registered as `name`, or imported from `package.module:function`.

    Raises:
        ValueError: no such name, module or function; the message lists what there is.
    """
    if name in registry:
        return registry[name]
    if ":" not in name:
        raise ValueError(
            f"unknown {kind} '{name}'{nearest(name, registry)} Known: {', '.join(sorted(registry))}; "
            f"your own is given as package.module:function"
        )
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{kind} '{name}': the module cannot be imported ({error})") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"{kind} '{name}': module '{module_name}' has no function '{attribute}'")
    return function


def code_version(registry: Mapping[str, Callable[..., Any]], name: str, kind: str) -> str | None:
    """A digest of the module that defines an imported function; None for registered ones.

    It enters the keys of stages, so that results of a user's own code are not reused after an edit.
    """
    if name in registry:
        return None
    module = inspect.getmodule(lookup(registry, name, kind))
    assert module is not None
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]


INJECTED = ("batches", "generator", "model", "group", "original", "images")


def check_options(function: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Refuse options that `function` does not take as keyword-only arguments, those it is given anyway left out.

    Raises:
        ValueError: naming the option, the function's own ones and the nearest of them.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in INJECTED]
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{where} has no option '{option}'{nearest(option, allowed)} It takes: {', '.join(allowed) or 'none'}"
            )


def summary(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring, for lists."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
