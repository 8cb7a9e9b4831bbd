"""Densities with known moments and gradients by hand, on which chains move."""

import torch


class Gaussian:
    """N(0, scale^2)."""

    is_target = True

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, position):
        scaled = position / self.scale
        return -0.5 * scaled.square().sum(-1), -scaled / self.scale


class Funnel:
    """Neal's: the first is N(0, 9), the logarithm of the variance of each of the others."""

    is_target = True

    def __call__(self, position):
        width, others = position[:, 0], position[:, 1:]
        precision = (-width).exp()
        squares = others.square().sum(-1) * precision
        value = -0.5 * ((width / 3.0).square() + squares + others.shape[-1] * width)
        of_width = -width / 9.0 + 0.5 * squares - 0.5 * others.shape[-1]
        return value, torch.cat([of_width.unsqueeze(-1), -others * precision.unsqueeze(-1)], -1)
