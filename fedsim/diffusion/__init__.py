"""Diffusion models: noise schedules, networks, the training loss, samplers and distillation, as pure functions.

Only ``unets`` needs an extra: ``pip install fedsim[diffusion]``. All else works with any ``network(x, t)``.
"""

from fedsim.diffusion.denoising import (
    Counted,
    Denoiser,
    LevelDenoiser,
    Noise,
    at_levels,
    denoiser,
    score,
    seeded_noise,
)
from fedsim.diffusion.distillation import Fold, at_teacher_steps, distillation_loss, fold, published_fold
from fedsim.diffusion.flow import Churn, heun
from fedsim.diffusion.objective import LabelledNetwork, Network, Objective, told
from fedsim.diffusion.parametrisation import Prediction
from fedsim.diffusion.samplers import ddim, ddim_step, ddpm
from fedsim.diffusion.schedules import SCHEDULES, Schedule, zero_terminal
from fedsim.diffusion.trajectory import trajectory_loss, trajectory_target
from fedsim.diffusion.unets import NETWORKS, UNet, build, builder

__all__ = [
    "NETWORKS",
    "SCHEDULES",
    "Churn",
    "Counted",
    "Denoiser",
    "Fold",
    "LabelledNetwork",
    "LevelDenoiser",
    "Network",
    "Noise",
    "Objective",
    "Prediction",
    "Schedule",
    "UNet",
    "at_levels",
    "at_teacher_steps",
    "build",
    "builder",
    "ddim",
    "ddim_step",
    "ddpm",
    "denoiser",
    "distillation_loss",
    "fold",
    "heun",
    "published_fold",
    "score",
    "seeded_noise",
    "told",
    "trajectory_loss",
    "trajectory_target",
    "zero_terminal",
]
