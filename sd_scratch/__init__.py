"""Stable Diffusion 1.x from scratch: every network, sampler and tensor in plain sight."""

__version__ = "0.1.0"
