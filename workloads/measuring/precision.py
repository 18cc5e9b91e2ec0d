"""The arithmetic of training and measuring: bfloat16, TF32 or float32."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def resolved(precision: str, device: torch.device) -> str:
    """What a setting means on a device: bfloat16, tf32 or float32.

    `auto` is bfloat16 where the hardware multiplies it natively, float32 elsewhere; `tf32` exists on GPUs only.
    """
    if precision == "auto":
        return "bfloat16" if has_bfloat16_units(device) else "float32"
    return "float32" if precision == "tf32" and device.type != "cuda" else precision


@contextlib.contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply in bfloat16, by autocast, in TF32 or exactly in float32."""
    with (
        float32_products(tf32=precision == "tf32"),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        yield


@contextlib.contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Multiply float32 exactly, or in TF32; by default PyTorch takes TF32 for convolutions on a GPU."""
    settings: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = tf32
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device has instructions that multiply bfloat16 (CUDA from Ampere on; AMX or AVX-512 BF16)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    private = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in private)
