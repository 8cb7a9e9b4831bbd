"""The terms of a bound of a perceptron VAE, encoder to likelihood, as one node of autograd.

Between the operations that the terms are made of autograd would have a node each, and small ones that split, add and
concatenate: at small batches that is a good part of a training step. The kernels and their order are the same, and so
are all values. Derivatives of the gradient are taken through the operations themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi.ops._backends import MODULES
from fastvi.ops._layers import MAX_LAYERS, agree, layers_of, parameters_of
from fastvi.ops._operation import OPERATIONS
from fastvi.ops._precision import autocast_dtype
from fastvi.ops.mlp import mlp, mlp_bernoulli_log_prob
from fastvi.ops.normal import kl_normal
from fastvi.ops.random import Seed, seed_tensor
from fastvi.ops.sampling import rsample_normal, rsample_normal_with_log_ratio

_PARAMETERS = 2 * MAX_LAYERS


class Network(NamedTuple):
    """A perceptron: weights and biases in turn, None behind those of its layers, and its activation."""

    parameters: tuple[Tensor | None, ...]
    activation: str

    @classmethod
    def of(cls, weights: Sequence[Tensor], biases: Sequence[Tensor | None], activation: str) -> Network | None:
        """That of some layers; None where they are more than one operation takes."""
        if len(weights) > MAX_LAYERS:
            return None
        return cls(tuple(parameters_of(list(zip(weights, biases, strict=True)))), activation)

    def layers(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """The weights and the biases of the layers that there are."""
        found = layers_of(self.parameters)
        return [weight for weight, _ in found], [bias for _, bias in found]


class Terms(NamedTuple):
    """What a bound is made of.

    ``free_bits`` is None for log weights, of the shape (K, B). A number asks for the log-likelihood, (K, B), and the
    divergence in closed form, (B,); then ``detach_posterior`` says nothing.
    """

    num_samples: int
    free_bits: float | None = None
    detach_posterior: bool = False
    row_offset: int = 0


def fits(x: Tensor, encoder: Network, decoder: Network) -> bool:
    """Whether the terms may be one node: plain tensors whose gradients PyTorch records, and that by x is not asked."""
    parameters = (*encoder.parameters, *decoder.parameters)
    return (
        not torch.compiler.is_compiling()
        and x.dim() == 2
        and not x.requires_grad
        and MODULES.of(x).route(x, *parameters) is None
        and agree(x, parameters)
    )


def terms(x: Tensor, encoder: Network, decoder: Network, asked: Terms, seed: Seed) -> Any:
    """The terms of each example of x, of the shape (B, D); the encoder gives mean and logvar behind each other."""
    seed = seed_tensor("rsample_normal", seed, x.device)
    node: Any = _Terms  # PyTorch's types know its apply() in some versions alone
    return node.apply(
        x,
        seed,
        asked,
        autocast_dtype(x),
        encoder.activation,
        decoder.activation,
        *encoder.parameters,
        *decoder.parameters,
    )


def _by_operations(x: Tensor, seed: Tensor, asked: Terms, encoder: Network, decoder: Network) -> Any:
    """The same by the operations, one node each."""
    mean, logvar = mlp(x, *encoder.layers(), encoder.activation).chunk(2, -1)

    def likelihood(z: Tensor) -> Tensor:
        return mlp_bernoulli_log_prob(z, *decoder.layers(), x, decoder.activation)

    num_samples, free_bits, detach_posterior, row_offset = asked
    if free_bits is not None:
        z = rsample_normal(mean, logvar, (num_samples,), seed, row_offset)
        return likelihood(z), kl_normal(mean, logvar, free_bits=free_bits)
    z, log_ratio = rsample_normal_with_log_ratio(
        mean, logvar, num_samples, detach_posterior=detach_posterior, seed=seed, row_offset=row_offset
    )
    return likelihood(z) + log_ratio


class _Terms(torch.autograd.Function):
    """The operations' native functions, one after the other, and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor, asked: Terms, *arguments: Any) -> Any:
        product_dtype, of_encoder, of_decoder, *parameters = arguments
        encoder, decoder = parameters[:_PARAMETERS], parameters[_PARAMETERS:]
        module = MODULES.of(x)
        heads, memory = OPERATIONS["mlp"].functions_in(module).forward(x, *encoder, of_encoder, False, product_dtype)
        mean, logvar = heads.chunk(2, -1)
        num_samples, free_bits, detach_posterior, row_offset = asked
        if free_bits is None:
            z, other = module.forward.rsample_normal_with_log_ratio(
                mean, logvar, None, None, seed, num_samples, detach_posterior, row_offset
            )
        else:
            z = module.forward.rsample_normal(mean, logvar, seed, (num_samples,), row_offset)
            other = module.forward.kl_normal(mean, logvar, None, None, free_bits)
        likelihood = OPERATIONS["mlp_bernoulli_log_prob"].functions_in(module)
        log_likelihood, *kept = likelihood.forward(z, x, *decoder, of_decoder, product_dtype)
        ctx.save_for_backward(x, seed, heads, memory, z, *kept, *parameters)
        ctx.constants = asked, product_dtype, of_encoder, of_decoder
        ctx.set_materialize_grads(False)
        return log_likelihood.add_(other) if free_bits is None else (log_likelihood, other)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, seed, heads, memory, z, hidden, residual, *parameters = ctx.saved_tensors
        asked, product_dtype, of_encoder, of_decoder = ctx.constants
        needs = ctx.needs_input_grad[6:]
        nothing = (None,) * 6
        module = MODULES.of(x)
        given = [grad for grad in grads if grad is not None]
        if not given:
            return nothing + (None,) * len(parameters)
        if len(given) < len(grads) or not module.runs_backward(*given, *ctx.saved_tensors):
            return nothing + _gradients(x, seed, asked, of_encoder, of_decoder, parameters, needs, grads)
        encoder, decoder = parameters[:_PARAMETERS], parameters[_PARAMETERS:]
        of_encoder_needed = any(needs[:_PARAMETERS])
        wanted = (of_encoder_needed, False, *needs[_PARAMETERS:])
        likelihood = OPERATIONS["mlp_bernoulli_log_prob"].functions_in(module)
        kept = hidden, residual, of_decoder, product_dtype
        by_z, _, *by_decoder = likelihood.backward(grads[0], z, x, *decoder, *kept, wanted)
        if not of_encoder_needed:
            return *nothing, *(None,) * _PARAMETERS, *by_decoder
        mean, logvar = heads.chunk(2, -1)
        num_samples, free_bits, detach_posterior, row_offset = asked
        if free_bits is None:
            by_mean, by_logvar, *_ = module.backward.rsample_normal_with_log_ratio(
                by_z, grads[0], mean, logvar, None, None, seed, num_samples, detach_posterior, row_offset,
                (True, True, False, False, False),
            )  # fmt: skip
        else:
            by_mean, by_logvar, _ = module.backward.rsample_normal(
                by_z, mean, logvar, seed, (num_samples,), row_offset, (True, True, False)
            )
            of_divergence = module.backward.kl_normal(
                grads[1], mean, logvar, None, None, free_bits, (True, True, False, False)
            )
            by_mean += of_divergence[0]
            by_logvar += of_divergence[1]
        perceptron = OPERATIONS["mlp"].functions_in(module)
        by_heads = torch.cat([by_mean, by_logvar], -1)
        constants = of_encoder, False, product_dtype
        _, *by_encoder = perceptron.backward(by_heads, x, *encoder, memory, *constants, (False, *needs[:_PARAMETERS]))
        return *nothing, *by_encoder, *by_decoder


def _gradients(
    x: Tensor,
    seed: Tensor,
    asked: Terms,
    of_encoder: str,
    of_decoder: str,
    parameters: Sequence[Any],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients through the operations, where they are to be recorded, or transforms and modes watch them."""
    records = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        if not records:
            parameters = [
                each if each is None else each.detach().requires_grad_(need)
                for each, need in zip(parameters, needs, strict=True)
            ]
        encoder = Network(tuple(parameters[:_PARAMETERS]), of_encoder)
        decoder = Network(tuple(parameters[_PARAMETERS:]), of_decoder)
        found = _by_operations(x, seed, asked, encoder, decoder)
    outputs = (found,) if isinstance(found, Tensor) else found
    with_grads = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [each for each, need in zip(parameters, needs, strict=True) if need]
    result = iter(
        torch.autograd.grad(
            [output for output, _ in with_grads], wanted, [grad for _, grad in with_grads], create_graph=records,
            allow_unused=True,
        )
    )  # fmt: skip
    return tuple(next(result) if need else None for need in needs)
