"""The GPU and the CPU threads that Ray has assigned to a task, in a process that serves many tasks.

CUDA reads CUDA_VISIBLE_DEVICES once in a process. So tasks that want a GPU run with `SEES_ALL_GPUS`: their process sees
all GPUs of its node, and turns to the assigned one for each task.
"""

import os
from collections.abc import Sequence

import ray
import torch
from threadpoolctl import threadpool_limits

SEES_ALL_GPUS = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}


def device() -> torch.device:
    """The GPU that Ray assigned to this task, the first one outside of Ray, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if not ray.is_initialized():
        return torch.device("cuda", 0)
    number = cuda_number(ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return torch.device("cpu") if number is None else torch.device("cuda", number)


def training_device() -> torch.device:
    """Where one process trains a network: as `device` says, or on Apple's GPU (MPS) where that would be a Mac's CPU.

    All else stays on the CPU there: much of it computes in float64, which MPS does not have.
    """
    return torch.device("mps") if torch.backends.mps.is_available() else device()


def cuda_number(assigned: Sequence[int | str], visible: str | None) -> int | None:
    """CUDA's number of the first assigned GPU, which counts what CUDA_VISIBLE_DEVICES lets it see; None without one."""
    if not assigned:
        return None
    return visible.split(",").index(str(assigned[0])) if visible else int(assigned[0])


def settle(threads: int) -> bool:
    """Turn this process to the task's threads, in PyTorch and in all BLAS and OpenMP libraries, and to its GPU.

    There it multiplies float32 as it is, unless settings say otherwise, and by algorithms that repeat themselves.

    Returns:
        Whether the GPU is another than before, so that what is kept on that one is of no more use.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for libraries that are loaded later
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    chosen = device()
    if chosen.type == "cpu" or torch.cuda.current_device() == chosen.index:
        return False
    torch.cuda.set_device(chosen)
    return True
