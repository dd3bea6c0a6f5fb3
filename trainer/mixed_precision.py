"""bfloat16 where it is worth it: an x86 processor without units for it emulates it at a fifth of the speed.

Knows nothing of networks. Leaves as the context in which a step is computed.
"""

import platform

import torch

LEFT_OUT = "bfloat16 is left out: this processor has no units for it, and is faster without."


def mixed_precision(device: str, wanted: bool) -> torch.autocast:
    """bfloat16 on a device ("cpu", "cuda"), where it is wanted and the device is made for it."""
    return torch.autocast(device, torch.bfloat16, enabled=wanted and suits(device))


def suits(device: str) -> bool:
    """Whether a device computes bfloat16 itself; all but x86 processors are taken to."""
    if device != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
