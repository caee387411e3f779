"""Defences of a client: of its update on the way out, or of the gradients within its training; chained as a mod."""

from clients.defences.defence import DEFENCES, Checking, Defence, Memory, Site, TrainingDefence, Update, UpdateDefence

from clients.defences import (  # isort: skip  (each registers itself)
    clipping,  # noqa: F401
    dp_sgd,  # noqa: F401
    gaussian_noise,  # noqa: F401
    half_precision,  # noqa: F401
    int8,  # noqa: F401
    laplacian_noise,  # noqa: F401
    pruning,  # noqa: F401
    soteria,  # noqa: F401
    sparsification,  # noqa: F401
    withholding,  # noqa: F401
)
from clients.defences.mod import defence_mod

__all__ = [
    "DEFENCES",
    "Checking",
    "Defence",
    "Memory",
    "Site",
    "TrainingDefence",
    "Update",
    "UpdateDefence",
    "defence_mod",
]
