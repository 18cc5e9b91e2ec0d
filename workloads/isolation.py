"""Running the user's own functions so that nothing they do reaches the results of others.

Stages share networks, weights, scores and images, and their results are stored under keys that know nothing of which
functions ran before. So own functions get copies of all that they are given, and what belongs to the process (random
numbers, threads, gradients, default types, hooks for all modules) is put back once they are done.
"""

import copy
import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn.modules import module as modules

from workloads.messages import first_line, is_from_outside

R = TypeVar("R")
Setting = tuple[Callable[[], Any], Callable[[Any], object]]

BACKENDS: Any = torch.backends
PRECISIONS = (
    "",
    "cuda.matmul",
    "cudnn",
    "cudnn.conv",
    "cudnn.rnn",
    "mkldnn",
    "mkldnn.matmul",
    "mkldnn.conv",
    "mkldnn.rnn",
)
FLAGS = (
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic", "mkldnn.enabled"),
    *("cudnn.allow_tf32", "cuda.matmul.allow_tf32"),
    # PyTorch refuses to read the old flags while the new ones say something else: the new ones come last.
    *(f"{backend}.fp32_precision".removeprefix(".") for backend in PRECISIONS),
)


def set_flag(path: str, value: Any) -> None:
    """Set an attribute of `torch.backends` by its dotted name."""
    parent, _, name = path.rpartition(".")
    setattr(attrgetter(parent)(BACKENDS) if parent else BACKENDS, name, value)


def set_device(device: torch.device) -> None:
    """Set the default device, unless it is that one: each setting slows PyTorch down."""
    if device != torch.get_default_device():
        torch.set_default_device(device)


def determinism() -> tuple[bool, bool]:
    """Whether operations have to be deterministic, and whether others are only warned of."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def set_determinism(mode: tuple[bool, bool]) -> None:
    """Set that, unless it is so: PyTorch loads its compiler for it, seconds of work."""
    if mode != determinism():
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])


def autocast_nesting() -> int:
    """How many blocks of autocast are open."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def set_autocast_nesting(depth: int) -> None:
    """Close the blocks of autocast beyond these; with the last one, the weights that autocast has cast are let go.

    As long as one stays open, a training reads the weights that were cast in its first step again and again.
    """
    while autocast_nesting() > depth:
        torch.autocast_decrement_nesting()
    if depth == 0:
        torch.clear_autocast_cache()


AUTOCAST_DEVICES = ("cpu", "cuda")
SETTINGS: tuple[Setting, ...] = (
    (torch.get_rng_state, torch.set_rng_state),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (np.geterr, lambda kept: np.seterr(**kept)),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, set_device),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (determinism, set_determinism),
    (autocast_nesting, set_autocast_nesting),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    *((partial(torch.is_autocast_enabled, d), partial(torch.set_autocast_enabled, d)) for d in AUTOCAST_DEVICES),
    *((partial(torch.get_autocast_dtype, d), partial(torch.set_autocast_dtype, d)) for d in AUTOCAST_DEVICES),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *((partial(attrgetter(flag), BACKENDS), partial(set_flag, flag)) for flag in FLAGS),
)
"""What belongs to the process and changes numbers: how it is read, and how it is put back."""


def isolated(function: Callable[..., R], name: str, seed: int = 0) -> Callable[..., R]:
    """A user's function so that it changes nothing but its result.

    It works on copies of its arguments; only a `torch.Generator` it gets itself. Random numbers that it does not take
    from there are drawn from the same seed each time, so that its result does not depend on what ran before.

    Args:
        function: a criterion, method or data set.
        name: what it is called in messages, such as "criterion 'mine:score'".
        seed: of Python's, NumPy's and PyTorch's global random numbers while it runs.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> R:
        generators = {key: value for key, value in kwargs.items() if isinstance(value, torch.Generator)}
        try:
            args, others = copy.deepcopy((args, {k: v for k, v in kwargs.items() if k not in generators}))
        except Exception as error:
            raise ValueError(f"what {name} is given cannot be copied ({first_line(error)})") from error
        with process_kept():
            seed_all(seed)
            try:
                return copied(function(*args, **others, **generators))
            except SystemExit as error:
                if is_from_outside(error):
                    raise
                raise RuntimeError(f"{name} tries to end the process (sys.exit)") from error

    return run


def seed_all(seed: int) -> None:
    """Seed the global random numbers of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def copied(result: R) -> R:
    """A result that its maker cannot change any more; tensors are detached."""
    return copy.deepcopy(result.detach()) if isinstance(result, torch.Tensor) else result  # type: ignore[return-value]


@contextmanager
def process_kept() -> Iterator[None]:
    """Put back what belongs to the process and changes numbers, however the block ends."""
    kept = [(write, read()) for read, write in SETTINGS]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    hooks = {name: dict(found) for name, found in vars(modules).items() if is_global_hooks(name, found)}
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    try:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            yield
    finally:
        for write, value in kept:
            write(value)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        for name, found in hooks.items():
            registered = vars(modules)[name]
            registered.clear()
            registered.update(found)


def is_global_hooks(name: str, found: object) -> bool:
    """Whether a variable of PyTorch's holds the hooks that run for every module."""
    return name.startswith("_global_") and isinstance(found, dict)
