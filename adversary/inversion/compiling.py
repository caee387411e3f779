"""Whether the step of a batch of victims is compiled by ``torch.compile``, and what that needs."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, fx

from fedsim.errors import FedsimError

Compiled = bool | Literal["auto"]
"""Yes, no, or ``auto``: where ``pays`` says so."""

SMALL = 100_000
"""Parameters of a network up to which the operations around the matrix products take much of a step."""
MANY = 300_000
"""Iterations times victims after which compiling has paid for itself where nothing is cached."""


def pays(parameters: int, victim_iterations: int) -> bool:
    """Whether compiling the step of a batch is worth its time, by facts of the configuration alone.

    Neither a cache nor a compiler that is there or not counts: results, which differ by rounding, would depend on them.
    Measured on one core with eight victims: LeNet (16,000 parameters) takes 21 CPU seconds to be compiled, 32 on a
    busy machine, and then saves 0.12 ms an iteration and victim; ``cnn`` (66,000) takes 23 and saves 0.15.

    Args:
        parameters: of the network.
        victim_iterations: iterations that the search of a victim may take, times victims.
    """
    return parameters <= SMALL and victim_iterations >= MANY


def compiler_problems(device: torch.device | str) -> list[str]:
    """What compiling lacks on this machine, as sentences with a remedy; none if it lacks nothing."""
    remedy = "or set compiled = false; results differ by rounding."
    cuda = torch.device(device).type == "cuda"
    if cuda and find_spec("triton") is None:
        return [f"Compiling for {device} needs the package triton. Install it, {remedy}"]
    variable, names = ("CC", ["gcc", "cc", "clang"]) if cuda else ("CXX", ["g++"])
    if variable in os.environ:
        names = [os.environ[variable]]
    if any(shutil.which(name) for name in names):
        return []
    return [f"Compiling needs {names[0]}, which is not on the PATH. Install it or set {variable}, {remedy}"]


def compiled(step: fx.GraphModule, example: Tensor) -> Any:
    """The step compiled, and run once.

    Raises:
        FedsimError: the compiler failed.
    """
    found = torch.compile(step)
    try:
        with torch.no_grad():
            found(example)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FedsimError(
            f"The step of the attack could not be compiled ({reason}). Set compiled = false; results differ a little."
        ) from error
    return found
