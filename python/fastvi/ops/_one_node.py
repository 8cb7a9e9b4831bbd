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

from fastvi._perceptron import check_activation
from fastvi.ops._backends import MODULES, Functions
from fastvi.ops._layers import MAX_LAYERS, PARAMETERS, PRODUCT_DTYPE, agree, layers_of, parameters_of
from fastvi.ops._operation import OPERATIONS, Operation
from fastvi.ops._precision import HALF_DTYPES, autocast_dtype
from fastvi.ops._private import compiled_transforms
from fastvi.ops.mlp import mlp, mlp_bernoulli_log_prob
from fastvi.ops.normal import kl_normal
from fastvi.ops.random import Seed, seed_tensor
from fastvi.ops.sampling import rsample_normal, rsample_normal_with_log_ratio

_PARAMETERS = 2 * MAX_LAYERS
_TENSORS = 2 + 2 * _PARAMETERS
_FREE_BITS = 5  # its place among the constants


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
    detach_posterior: bool = False
    row_offset: int = 0
    free_bits: float | None = None


def fits(x: Tensor, encoder: Network, decoder: Network, asked: Terms) -> bool:
    """Whether the terms may be one node: plain tensors whose gradients PyTorch records, and that by x is not asked.

    In a compiled program free bits would be a constant of the operator, where they are an input of `kl_normal`.
    """
    parameters = (*encoder.parameters, *decoder.parameters)
    if x.dim() != 2 or x.requires_grad or not agree(x, parameters):
        return False
    if torch.compiler.is_compiling():
        usual = asked.free_bits is None or asked.free_bits == 0.0
        return usual and compiled_transforms() == 0 and x.dtype not in HALF_DTYPES and torch.is_grad_enabled()
    return MODULES.of(x).route(x, *parameters) is None


def terms(x: Tensor, encoder: Network, decoder: Network, asked: Terms, seed: Seed) -> Any:
    """The terms of each example of x, of the shape (B, D); the encoder gives mean and logvar behind each other."""
    seed = seed_tensor("rsample_normal", seed, x.device)
    constants = (encoder.activation, decoder.activation, *asked, autocast_dtype(x))
    arguments = (x, seed, *encoder.parameters, *decoder.parameters, *constants)
    if torch.compiler.is_compiling():
        log_likelihood, divergence, *_ = _TERMS.operator(*arguments)
        return log_likelihood if asked.free_bits is None else (log_likelihood, divergence)
    node: Any = _Terms  # PyTorch's types know its apply() in some versions alone
    return node.apply(*arguments)


def _split(tensors: Sequence[Any]) -> tuple[Any, Any, Sequence[Any], Sequence[Any]]:
    """x, the seed, and the parameters of encoder and decoder."""
    x, seed, *parameters = tensors
    return x, seed, parameters[:_PARAMETERS], parameters[_PARAMETERS:]


def _run(tensors: Sequence[Any], constants: Sequence[Any]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """By the native functions: the two terms, of which log weights are one, and what the way back needs."""
    x, seed, encoder, decoder = _split(tensors)
    of_encoder, of_decoder, num_samples, detach_posterior, row_offset, free_bits, product_dtype = constants
    module = MODULES.of(x)
    heads, memory = OPERATIONS["mlp"].functions_in(module).forward(x, *encoder, of_encoder, False, product_dtype)
    mean, logvar = heads.chunk(2, -1)
    if free_bits is None:
        z, other = module.forward.rsample_normal_with_log_ratio(
            mean, logvar, None, None, seed, num_samples, detach_posterior, row_offset
        )
    else:
        z = module.forward.rsample_normal(mean, logvar, seed, (num_samples,), row_offset)
        other = module.forward.kl_normal(mean, logvar, None, None, free_bits)
    likelihood = OPERATIONS["mlp_bernoulli_log_prob"].functions_in(module)
    log_likelihood, *kept = likelihood.forward(z, x, *decoder, of_decoder, product_dtype)
    if free_bits is None:
        log_likelihood, other = log_likelihood.add_(other), x.new_empty(0)
    return log_likelihood, other, [heads, memory, z, *kept]


def _run_back(
    grads: Sequence[Any], tensors: Sequence[Any], kept: Sequence[Any], constants: Sequence[Any], needs: Sequence[bool]
) -> Any:
    """The gradients by the parameters, those of the encoder first; ``needs`` has an element for each of them."""
    x, seed, encoder, decoder = _split(tensors)
    heads, memory, z, hidden, residual = kept
    of_encoder, of_decoder, num_samples, detach_posterior, row_offset, free_bits, product_dtype = constants
    module = MODULES.of(x)
    of_encoder_needed = any(needs[:_PARAMETERS])
    wanted = (of_encoder_needed, False, *needs[_PARAMETERS:])
    likelihood = OPERATIONS["mlp_bernoulli_log_prob"].functions_in(module)
    by_z, _, *by_decoder = likelihood.backward(
        grads[0], z, x, *decoder, hidden, residual, of_decoder, product_dtype, wanted
    )
    if not of_encoder_needed:
        return *(None,) * _PARAMETERS, *by_decoder
    mean, logvar = heads.chunk(2, -1)
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
    of_layers = of_encoder, False, product_dtype
    _, *by_encoder = perceptron.backward(by_heads, x, *encoder, memory, *of_layers, (False, *needs[:_PARAMETERS]))
    return *by_encoder, *by_decoder


class _Terms(torch.autograd.Function):
    """The operations' native functions, one after the other, and back."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        tensors, ctx.constants = arguments[:_TENSORS], arguments[_TENSORS:]
        log_likelihood, other, kept = _run(tensors, ctx.constants)
        ctx.save_for_backward(*kept, *tensors)
        ctx.set_materialize_grads(False)
        return log_likelihood if ctx.constants[_FREE_BITS] is None else (log_likelihood, other)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        kept, tensors = saved[:-_TENSORS], saved[-_TENSORS:]
        needs = ctx.needs_input_grad[2:_TENSORS]
        of_constants = (None,) * len(ctx.constants)
        given = [grad for grad in grads if grad is not None]
        if not given:
            return (None,) * _TENSORS + of_constants
        if len(given) < len(grads) or not MODULES.of(tensors[0]).runs_backward(*given, *saved):
            return None, None, *_gradients(tensors, ctx.constants, needs, grads), *of_constants
        return None, None, *_run_back(grads, tensors, kept, ctx.constants, needs), *of_constants


def _by_operations(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The same by the operations, one node each."""
    x, seed, of_encoder, of_decoder = _split(arguments[:_TENSORS])
    encoder_activation, decoder_activation, *asked, _ = arguments[_TENSORS:]
    encoder, decoder = Network(tuple(of_encoder), encoder_activation), Network(tuple(of_decoder), decoder_activation)
    num_samples, detach_posterior, row_offset, free_bits = Terms(*asked)
    mean, logvar = mlp(x, *encoder.layers(), encoder.activation).chunk(2, -1)

    def likelihood(z: Tensor) -> Tensor:
        return mlp_bernoulli_log_prob(z, *decoder.layers(), x, decoder.activation)

    if free_bits is not None:
        z = rsample_normal(mean, logvar, (num_samples,), seed, row_offset)
        return likelihood(z), kl_normal(mean, logvar, free_bits=free_bits)
    z, log_ratio = rsample_normal_with_log_ratio(
        mean, logvar, num_samples, detach_posterior=detach_posterior, seed=seed, row_offset=row_offset
    )
    return likelihood(z) + log_ratio, x.new_empty(0)


def _gradients(
    tensors: Sequence[Any], constants: Sequence[Any], needs: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradients through the operations, where they are to be recorded, or transforms and modes watch them."""
    records = torch.is_grad_enabled()
    x, seed, *parameters = tensors
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        if not records:
            parameters = [
                each if each is None else each.detach().requires_grad_(need)
                for each, need in zip(parameters, needs, strict=True)
            ]
        outputs = _by_operations(x, seed, *parameters, *constants)
    with_grads = [(output, grad) for output, grad in zip(outputs, grads, strict=False) if grad is not None]
    wanted = [each for each, need in zip(parameters, needs, strict=True) if need]
    result = iter(
        torch.autograd.grad(
            [output for output, _ in with_grads], wanted, [grad for _, grad in with_grads], create_graph=records,
            allow_unused=True,
        )
    )  # fmt: skip
    return tuple(next(result) if need else None for need in needs)


def _outputs_without_values(*arguments: Any) -> tuple[Tensor, ...]:
    """The forward operator's results as tensors without values."""
    x, _, encoder, decoder = _split(arguments[:_TENSORS])
    of_encoder, of_decoder, num_samples, *_, free_bits, product_dtype = arguments[_TENSORS:]
    heads, memory = OPERATIONS["mlp"].fake(x, *encoder, of_encoder, False, product_dtype)
    z = x.new_empty((num_samples, x.shape[0], heads.shape[-1] // 2))
    log_likelihood, *kept = OPERATIONS["mlp_bernoulli_log_prob"].fake(z, x, *decoder, of_decoder, product_dtype)
    return log_likelihood, x.new_empty(0 if free_bits is None else x.shape[0]), heads, memory, z, *kept


def _check(*arguments: Any) -> None:
    for activation in arguments[_TENSORS : _TENSORS + 2]:
        check_activation("perceptron_bound", activation)


def _functions(module: Any) -> Functions:
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        log_likelihood, other, kept = _run(arguments[:_TENSORS], arguments[_TENSORS:])
        return log_likelihood, other, *kept

    def backward(*arguments: Any) -> tuple[Tensor | None, ...]:
        grads, tensors, kept, constants, needs = _TERMS.split_backward(arguments)
        shapes = [(tensors[0].shape[0],) if i else kept[2].shape[:2] for i in range(2)]
        complete = [
            tensors[0].new_zeros(shape) if grad is None else grad for grad, shape in zip(grads, shapes, strict=True)
        ]
        return None, None, *_run_back(complete, tensors, kept, constants, needs[2:])

    def attempt(*arguments: Any) -> Any:
        return NotImplemented

    return Functions(attempt, forward, attempt, backward)


_TERMS: Operation[Any] = Operation(
    name="perceptron_bound",
    tensors=(
        "Tensor x",
        "Tensor seed",
        *(each.replace(" ", f" {network}_") for network in ("encoder", "decoder") for each in PARAMETERS),
    ),
    constants=(
        "str encoder_activation",
        "str decoder_activation",
        "SymInt num_samples",
        "bool detach_posterior",
        "SymInt row_offset",
        "float? free_bits",
        PRODUCT_DTYPE,
    ),
    formula=_by_operations,
    fake=_outputs_without_values,
    functions=_functions,
    num_outputs=2,
    num_auxiliary=5,
    check=_check,
    is_public=False,
)
"""What torch.compile puts into its program: there the terms are one operator."""
