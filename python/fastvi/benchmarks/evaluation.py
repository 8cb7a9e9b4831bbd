"""L_5000 of digits under an autoencoder 784-200-200-50, by `fastvi.evaluate.stream_bounds` and as others write it.

Weights and digits are random; the last weights of encoder and decoder are small: the importance weights are then even
enough for the estimates of the providers to be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvi.benchmarks.harness import FORWARD, Case, Workload
from fastvi.benchmarks.perceptron_step import DATA_DIM, HIDDEN_DIM, LATENT_DIM, PlainVAE, check_model
from fastvi.benchmarks.results import EAGER, FASTVI, GEMMS, POINT_LOOP
from fastvi.benchmarks.timers import Call
from fastvi.evaluate import stream_bounds
from fastvi.models import VAE

NUM_SAMPLES = 5000
SAMPLES_OF_A_CHUNK = 20
"""Of plain PyTorch, for all digits of a batch at once."""
COPIES = 100
"""Of one digit, in a pass of the loop over points."""
ROWS_TRIED = (256, 512, 1000, 2000, 4000, 8000)
"""Rows of the matrix products, of which the fastest number stands for all."""
STANDARD_ERRORS = 6.0


def log_ratio(mean: Tensor, logvar: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return samples of q(z|x) and log p(z) - log q(z|x); the constants of both densities cancel."""
    z = mean + torch.exp(0.5 * logvar) * noise
    return z, 0.5 * (logvar + noise.square() - z.square()).sum(-1)


def bounds_by_chunks(model: PlainVAE, x: Tensor, num_samples: int, chunk: int = SAMPLES_OF_A_CHUNK) -> Tensor:
    """Return L_K, (B,), as one writes it in plain PyTorch: the encoder once, samples of all digits chunk by chunk."""
    mean, logvar = model.encode(x)
    parts = []
    for _ in range(num_samples // chunk):
        z, ratio = log_ratio(mean, logvar, torch.randn(chunk, *mean.shape, device=mean.device))
        parts.append(model.log_likelihood(x, z) + ratio)
    return torch.logsumexp(torch.cat(parts), 0) - math.log(num_samples)


def bounds_by_points(model: PlainVAE, x: Tensor, num_samples: int, copies: int = COPIES) -> Tensor:
    """Return L_K, (B,), by a loop over points, as ``get_nll`` of pythae has it: a re-statement of its algorithm.

    Each pass goes through encoder and decoder with copies of one point, a sample for each; the likelihood is a cross
    entropy of probabilities.
    """
    found = []
    for point in x:
        parts = []
        for _ in range(num_samples // copies):
            repeated = torch.cat(copies * [point.unsqueeze(0)])
            mean, logvar = model.encode(repeated)
            z, ratio = log_ratio(mean, logvar, torch.randn_like(mean))
            probability = torch.sigmoid(model.likelihood_head(model.decoder(z)))
            entropy = functional.binary_cross_entropy(probability, repeated, reduction="none")
            parts.append(ratio - entropy.sum(-1))
        found.append(torch.logsumexp(torch.cat(parts), 0) - math.log(num_samples))
    return torch.stack(found)


def decoder_products(model: PlainVAE, total_rows: int, rows: int) -> Call:
    """Return the decoder's matrix products for so many rows, ``rows`` at a time; each reads what the last one wrote."""
    layers = [each for each in (*model.decoder, model.likelihood_head) if isinstance(each, nn.Linear)]
    weights = [layer.weight.detach().T for layer in layers]
    values = [torch.randn(rows, LATENT_DIM), *(torch.empty(rows, weight.shape[1]) for weight in weights)]

    def products(count: int) -> None:
        for before, weight, after in zip(values, weights, values[1:], strict=False):
            torch.mm(before[:count], weight, out=after[:count])

    def call() -> None:
        for start in range(0, total_rows, rows):
            products(min(rows, total_rows - start))

    return call


def fastest_rows(model: PlainVAE, tried: Sequence[int], repeats: int = 5) -> int:
    """Return the number of rows at which the products of a row take the least time here and now."""
    most = max(tried)

    def seconds(call: Call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    calls = {rows: decoder_products(model, most, rows) for rows in tried}
    times = {rows: min(seconds(call) for _ in range(repeats)) for rows, call in calls.items()}
    return min(times, key=times.__getitem__)


def bounds_of_providers(plain: PlainVAE, fused: VAE, x: Tensor, num_samples: int) -> dict[str, Callable[[], Tensor]]:
    """Return for each provider the call that makes L_K of these digits, (B,), without a gradient."""

    def without_gradient(bound: Callable[[], Tensor]) -> Callable[[], Tensor]:
        @torch.no_grad()
        def call() -> Tensor:
            return bound()

        return call

    return {
        EAGER: without_gradient(partial(bounds_by_chunks, plain, x, num_samples)),
        FASTVI: without_gradient(lambda: stream_bounds(fused, x, num_samples).importance_weighted),
        POINT_LOOP: without_gradient(partial(bounds_by_points, plain, x, num_samples)),
    }


def check_bounds(name: str, plain: PlainVAE, fused: VAE, x: Tensor) -> None:
    """Each provider's L_K lies as far from that of fastvi as the samples' weights let it, at most.

    The variance of an estimate is 1 / ESS - 1 / K to first order.
    """
    ours = stream_bounds(fused, x, NUM_SAMPLES, seed=1)
    deviation = (2.0 / ours.effective_sample_size - 2.0 / NUM_SAMPLES).sqrt()  # of the difference of two
    for provider, call in bounds_of_providers(plain, fused, x, NUM_SAMPLES).items():
        off = ((call() - ours.importance_weighted).abs() / deviation).max().item()
        if not off <= STANDARD_ERRORS:
            raise AssertionError(f"{name}: L_{NUM_SAMPLES} of {provider} is off by {off:.1f} standard errors")


def _prepare(digits: int, once: bool, name: str, mode: str, with_compile: bool) -> Workload:
    x = torch.bernoulli(torch.full((digits, DATA_DIM), 0.5))
    fused = VAE(DATA_DIM, LATENT_DIM, (HIDDEN_DIM, HIDDEN_DIM))
    with torch.no_grad():
        for head in (fused.posterior_head, fused.likelihood_head):
            head.weight.mul_(0.1)
    plain = PlainVAE()
    plain.load_state_dict(fused.state_dict())
    calls: dict[str, Call] = {**bounds_of_providers(plain, fused, x, NUM_SAMPLES)}
    calls[GEMMS] = decoder_products(plain, digits * NUM_SAMPLES, fastest_rows(plain, ROWS_TRIED))

    def check() -> None:
        check_model(plain, fused, x, 3, name, autocast=False)
        check_bounds(name, plain, fused, x[:4])

    return Workload(calls, check, once=once)


def evaluation_case(digits: int, once: bool = False) -> Case:
    """Return the case of so many digits; ``once``: on request, each provider timed by one call."""
    name = f"L_{NUM_SAMPLES} of {digits} digits"
    return Case("evaluation", name, (FORWARD,), partial(_prepare, digits, once, name), on_request=once)


CASES = [evaluation_case(4), evaluation_case(100, once=True)]
