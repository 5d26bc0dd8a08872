"""How much memory this machine and its devices have. Knows nothing of models."""

import os

import torch


def host_bytes() -> int | None:
    """The machine's memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def device_bytes(device: str) -> int | None:
    """Memory of a CUDA device, or None where there is none."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info(device)[1])


def torch_threads() -> int:
    """Threads that one operation of torch may use."""
    return torch.get_num_threads()
