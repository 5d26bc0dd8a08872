"""Read how much memory and how many threads this machine and its devices offer. Knows nothing of models."""

import os

import torch


def host_bytes() -> int | None:
    """Return the machine's memory in bytes, or None if the operating system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def device_bytes(device: str) -> int | None:
    """Return the memory of a CUDA device in bytes, or None if `device` is no CUDA device or CUDA is not available."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info(device)[1])


def torch_threads() -> int:
    """Return the number of threads that one torch operation may use."""
    return torch.get_num_threads()
