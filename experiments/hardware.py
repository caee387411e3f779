"""Devices by name, and what they can compute."""

from __future__ import annotations

import torch

from fedsim.errors import invalid


def found_device(field: str, name: str) -> torch.device:
    """The device of a name.

    Args:
        field: that the name was given in, for the message.
        name: such as ``cpu`` or ``cuda:1``.

    Raises:
        FedsimError: there is no such device here.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise invalid(field, name, "there is no such device here", 'Use "cpu"') from error
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16, rather than emulates it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
