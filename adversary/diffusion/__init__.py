"""Inverting gradients of a diffusion loss: what diffusion models add to ``adversary.inversion``."""
