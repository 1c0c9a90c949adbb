"""Distributions without a hierarchy, whose posterior under diffusion has a closed form."""

from lit_hier.gaussian.distribution import Distribution, PosteriorDraw
from lit_hier.gaussian.field import GaussianRandomField
from lit_hier.gaussian.mixture import GaussianMixture

__all__ = ["Distribution", "GaussianMixture", "GaussianRandomField", "PosteriorDraw"]
