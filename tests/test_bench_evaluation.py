"""The evaluations that are timed: each provider's L_K against a decoder whose evidence is known, and the products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastvi.benchmarks import evaluation, harness
from fastvi.benchmarks.perceptron_step import PlainVAE
from fastvi.benchmarks.results import EAGER, FASTVI, GEMMS, POINT_LOOP, RATIOS
from fastvi.models import VAE


def constant_decoder(images: int) -> tuple[PlainVAE, VAE, Tensor, Tensor]:
    """Both models with logits b for every z, and log p(x) = sum_d x_d b_d - log(1 + exp(b_d)) of some images.

    The posterior's mean is off the prior's by a constant, so that the weights of samples differ.
    """
    torch.manual_seed(1)
    fused, plain = VAE(784, 50, (200, 200)), PlainVAE()
    with torch.no_grad():
        fused.likelihood_head.weight.zero_()
        fused.likelihood_head.bias.normal_()
        fused.posterior_head.weight.zero_()
        fused.posterior_head.bias[:50] = 0.02
    plain.load_state_dict(fused.state_dict())
    x = torch.rand(images, 784).round()
    logits = fused.likelihood_head.bias.detach().double()
    return plain, fused, x, x.double() @ logits - torch.nn.functional.softplus(logits).sum()


@pytest.mark.parametrize("provider", [EAGER, FASTVI, POINT_LOOP])
def test_the_bound_of_every_provider_reaches_the_evidence(provider: str) -> None:
    plain, fused, x, exact = constant_decoder(3)
    found = evaluation.bounds_of_providers(plain, fused, x, 400)[provider]()
    # The weights are log-normal: log w ~ N(-d^2 / 2, d^2) with d^2 = 50 * 0.02^2 = 0.02. Of 400 samples the log of the
    # mean deviates by sqrt((e^0.02 - 1) / 400) = 0.0071; six of those, and float32 sums of about a thousand nats.
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=6 * 0.0071)


class Products(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.mm:
            self.count += args[0].shape[0] * args[0].shape[1] * args[1].shape[1]
        return func(*args, **(kwargs or {}))


def test_the_products_are_those_of_every_row() -> None:
    model = PlainVAE()
    assert evaluation.fastest_rows(model, (4, 8), repeats=1) in (4, 8)
    with Products() as products:
        evaluation.decoder_products(model, 37, 8)()
    assert products.count == 37 * (50 * 200 + 200 * 200 + 200 * 784)


def test_the_case_of_every_provider_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "NUM_SAMPLES", 200)
    monkeypatch.setattr(evaluation, "ROWS_TRIED", (50,))
    case = harness.load_cases("evaluation")[0]
    torch.manual_seed(harness.SEED)
    workload = case.prepare(case.modes[0], False)
    workload.check()
    assert list(workload.calls) == [EAGER, FASTVI, POINT_LOOP, GEMMS]
    for call in workload.calls.values():
        call()
    assert (POINT_LOOP, FASTVI) in RATIOS


def test_a_bound_that_is_off_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "NUM_SAMPLES", 200)
    plain, fused, x, _ = constant_decoder(2)
    with torch.no_grad():
        plain.likelihood_head.bias += 0.01
    with pytest.raises(AssertionError, match=r"case: L_200 of eager is off by \d+\.\d standard errors"):
        evaluation.check_bounds("case", plain, fused, x)
