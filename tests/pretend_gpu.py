"""A GPU without a GPU: tensors that hold their values on the CPU, say that they are on cuda:0, and refuse what CUDA
refuses, above all a tensor of the CPU beside one of the GPU. For tests of where tensors lie, not of arithmetic."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
aten = torch.ops.aten


class OnGpu(torch.Tensor):
    """A tensor that pretends to be on the GPU; `held` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnGpu":
        layout: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device="meta", **layout)
        made.held = held
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return dispatched(function, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Lets functions that make tensors on cuda:0 make them there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(function, args, kwargs or {})


def dispatched(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operator gives, on the GPU if its operands are there or it is told so."""
    if function is torch.ops.prim.device.default:
        return args[0].device
    name = function.overloadpacket
    if name is not aten._to_copy and function._can_decompose():
        with Pretending():
            found = function.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_gpu = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    result_on_gpu = bool(on_gpu)
    if name in (aten.copy_, aten.index, aten.index_put, aten.index_put_):
        result_on_gpu = isinstance(args[0], OnGpu)  # copies go anywhere; indices may be on the CPU
        others = [leaf for leaf in tree_leaves(args[2:]) if isinstance(leaf, torch.Tensor) and leaf.dim()]
        if name is not aten.copy_ and any(isinstance(other, OnGpu) != result_on_gpu for other in others):
            raise RuntimeError(f"{function}: values and tensor are on different devices")
        if not result_on_gpu and name is not aten.copy_ and on_gpu:
            raise RuntimeError(f"{function}: a tensor on the CPU, indices on the GPU")
    elif name is not aten._to_copy and on_gpu and any(t.dim() and not isinstance(t, OnGpu) for t in tensors):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, found cuda:0 and cpu")
    if kwargs.get("device") is not None:
        result_on_gpu = torch.device(kwargs["device"]).type != "cpu"
        kwargs = {**kwargs, "device": "cpu"}
    generator = kwargs.get("generator")
    if result_on_gpu and generator is not None:
        raise RuntimeError(f"{function}: a generator of the CPU for a tensor on the GPU")
    known = {id(tensor.held): tensor for tensor in on_gpu}
    plain = tree_map(lambda leaf: leaf.held if isinstance(leaf, OnGpu) else leaf, (args, kwargs))
    return tree_map(lambda leaf: moved(leaf, result_on_gpu, known), function(*plain[0], **plain[1]))


def moved(leaf: Any, to_gpu: bool, known: dict[int, OnGpu]) -> Any:
    """A result on its device; what an operator changed in place stays the tensor that it was."""
    if id(leaf) in known:
        return known[id(leaf)]
    return OnGpu(leaf) if to_gpu and isinstance(leaf, torch.Tensor) else leaf


@contextlib.contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Within it, cuda:0 is there."""
    with pytest.MonkeyPatch.context() as patch, Pretending():
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "synchronize", lambda device=None: None)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        patch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": torch.zeros(1, dtype=torch.uint8))
        patch.setattr(torch.cuda, "set_rng_state", lambda state, device="cuda": None)
        patch.setattr(torch.nn.Module, "to", converted(torch.nn.Module.to))
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield GPU
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
            torch._C._set_only_lift_cpu_tensors(False)


def converted(to: Any) -> Any:
    """`Module.to` that passes over layouts: a pretended parameter cannot change in place, as a true one would."""

    def convert(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return module if not args and set(kwargs) == {"memory_format"} else to(module, *args, **kwargs)

    return convert
