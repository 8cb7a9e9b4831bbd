"""Models that the bounds of `fastvi.objectives` train."""

from fastvi.models.vae import VAE

__all__ = ["VAE"]
