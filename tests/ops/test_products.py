"""Matrix products whose factors are of half precision, in regions of ``torch.autocast`` and by the operators' argument.

What the roundings of factors and products may do is carried through the formulas as bounds on float64 values.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import fastvi
from fastvi import ops
from fastvi.ops import _precision
from support.place import place

REGION = torch.device(place.device).type
HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
SMALL = 1e-5
"""Relative error of the float32 arithmetic around the products, far below that of the products."""
SHAPES = [(4, 3, 5, 6), (1, 1, 1, 1), (2, 30, 40, 70), (50, 3, 200, 33), (3, 2, 0, 4)]
"""Samples, rows, units and columns."""


class Bounded(NamedTuple):
    """Values in float64, and how far from them a result may be."""

    value: Tensor
    error: Tensor

    @property
    def largest(self) -> Tensor:
        return self.value.abs() + self.error

    @property
    def t(self) -> Bounded:
        return Bounded(self.value.t(), self.error.t())

    def __mul__(self, other: Bounded) -> Bounded:
        """Also for factors that broadcast."""
        error = self.error * other.largest + self.value.abs() * other.error
        value = self.value * other.value
        return Bounded(value, error + SMALL * (value.abs() + error))

    def sum(self, dim: int) -> Bounded:
        value, error = self.value.sum(dim), self.error.sum(dim)
        return Bounded(value, error + SMALL * self.largest.sum(dim))

    def function(self, function, steepest: float) -> Bounded:
        """A function whose slope is at most ``steepest``."""
        value = function(self.value)
        return Bounded(value, steepest * self.error + SMALL * (1 + value.abs()))


def exact(tensor: Tensor) -> Bounded:
    value = tensor.detach().double()
    return Bounded(value, torch.zeros_like(value))


def product(left: Bounded, right: Bounded, half: torch.dtype) -> Bounded:
    """Both factors are rounded, then the sum: three relative errors of half the dtype's ``eps``; of float16 subnormals
    half of the smallest one."""
    info = torch.finfo(half)
    unit, least = info.eps / 2, info.smallest_normal * info.eps / 2

    def rounded(factor: Bounded) -> Bounded:
        return Bounded(factor.value, factor.error + unit * factor.largest + least)

    left, right = rounded(left), rounded(right)
    error = left.error @ right.largest + left.value.abs() @ right.error
    value = left.value @ right.value
    error = error + unit * (value.abs() + error) + 2 * SMALL * (left.largest @ right.largest) + least
    return Bounded(value, error)


def slope_of_tanh(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x) ** 2


def added(left: Bounded, right: Bounded) -> Bounded:
    value = left.value + right.value
    return Bounded(value, left.error + right.error + SMALL * (left.largest + right.largest))


def assert_within(result: Tensor, bound: Bounded) -> None:
    assert result.dtype == torch.float32
    outside = (result.double() - bound.value).abs() - bound.error
    assert not bool((outside > 0).any()), f"outside by {outside.max().item()}"


def head_bounds(
    h: Bounded,
    weight: Bounded,
    bias: Bounded,
    x: Bounded,
    scale: Bounded,
    half: torch.dtype,
    scaled_first: bool = True,
):
    """The log-likelihood of rows, and its gradients times the rows' ``scale``, by h, weight, bias and x.

    The rows of x - sigmoid(logits) are multiplied by ``scale`` before they are rounded, or the narrow side is.
    """
    logits = added(product(h, weight.t, half), bias)
    # d/dl of x l - log(1 + e^l) lies in [-1, 1].
    terms = Bounded(
        x.value * logits.value - torch.nn.functional.softplus(logits.value),
        logits.error + SMALL * (1 + logits.largest),
    )
    residual = Bounded(x.value - torch.sigmoid(logits.value), logits.error / 4 + SMALL)
    column = Bounded(scale.value.unsqueeze(1), scale.error.unsqueeze(1))
    by_logits = residual * column
    if scaled_first:
        by_h, by_weight = product(by_logits, weight, half), product(by_logits.t, h, half)
    else:
        by_h, by_weight = product(residual, weight, half) * column, product(residual.t, h * column, half)
    return terms.sum(1), by_h, by_weight, by_logits.sum(0), logits * column


def operands(shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """h, weight, bias, x and an upstream gradient."""
    samples, rows, units, columns = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    drawn = (
        normal(samples, rows, units),
        normal(columns, units) / math.sqrt(max(1, units)),
        normal(columns),
        torch.sigmoid(normal(rows, columns)),
        normal(samples, rows),
    )
    return [tensor.to(place.device) for tensor in drawn]


def check_head(result: Tensor, found: tuple[Tensor, ...], given: list[Tensor], half: torch.dtype) -> None:
    h, weight, bias, x, upstream = given
    samples = h.shape[0]
    value, by_h, by_weight, by_bias, by_x = head_bounds(
        exact(h.flatten(0, 1)),
        exact(weight),
        exact(bias),
        exact(x.repeat(samples, 1)),
        exact(upstream.reshape(-1)),
        half,
    )
    assert_within(result.reshape(-1), value)
    assert_within(found[0].reshape(by_h.value.shape), by_h)
    assert_within(found[1], by_weight)
    assert_within(found[2], by_bias)
    folded = [each.reshape(samples, *x.shape) for each in by_x]
    assert_within(found[3], Bounded(*folded).sum(0))


@HALVES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_head_in_autocast(shape, half):
    *given, upstream = operands(shape)
    given = [tensor.requires_grad_() for tensor in given]
    with torch.autocast(REGION, half):
        result = fastvi.linear_bernoulli_log_prob(*given)
        inside = torch.autograd.grad(result, given, upstream, retain_graph=True)
    check_head(result, inside, [*given, upstream], half)
    for outside in (False, True):  # the products of the backward pass are those of the forward pass's region
        with torch.autocast(REGION, torch.float16, enabled=not outside):
            found = torch.autograd.grad(result, given, upstream, retain_graph=True)
        for one, other in zip(found, inside, strict=True):
            assert torch.equal(one, other)
    for i, needed in enumerate(given):  # each gradient alone
        (alone,) = torch.autograd.grad(result, needed, upstream, retain_graph=True)
        assert torch.equal(alone, inside[i])


@HALVES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_head_by_its_operator(shape, half):
    """Also in a dtype for which the processor has no instructions."""
    *given, upstream = operands(shape, seed=1)
    given = [tensor.requires_grad_() for tensor in given]
    result = torch.ops.fastvi.linear_bernoulli_log_prob(*given, half)[0]
    check_head(result, torch.autograd.grad(result, given, upstream), [*given, upstream], half)


@HALVES
def test_factors_are_rounded(half):
    """1 + eps / 4 is nearest to 1, which no product of float32 takes it for."""
    h = place.full((2, 1), 1 + torch.finfo(half).eps / 4)
    weight, x = place.full((3, 1), 2.0), place.tensor([1.0, 0.0, 0.5])
    result = torch.ops.fastvi.linear_bernoulli_log_prob(h, weight, None, x, half)[0]
    assert torch.equal(result, fastvi.bernoulli_log_prob(x, place.full((2, 3), 2.0)))
    plain = torch.ops.fastvi.linear_bernoulli_log_prob(h, weight, None, x)[0]
    assert torch.equal(plain, fastvi.linear_bernoulli_log_prob(h, weight, None, x))
    torch.testing.assert_close(plain, fastvi.bernoulli_log_prob(x, (h * 2).expand(2, 3)))
    perceptron = torch.ops.fastvi.mlp(h, weight, None, *[None] * 6, "relu", False, half)[0]
    assert torch.equal(perceptron, place.full((2, 3), 2.0))


@HALVES
@pytest.mark.parametrize("activate_last", [False, True])
def test_mlp_in_autocast(half, activate_last):
    generator = torch.Generator().manual_seed(3)
    x, first, second, shift, upstream = (
        torch.randn(shape, generator=generator).to(place.device)
        for shape in ((7, 30), (20, 30), (9, 20), (20,), (7, 9))
    )
    first, second = first / 30**0.5, second / 20**0.5
    given = [tensor.requires_grad_() for tensor in (x, first, second, shift)]
    with torch.autocast(REGION, half):
        result = fastvi.mlp(x, [first, second], [shift, None], "tanh", activate_last)
    found = torch.autograd.grad(result, given, upstream)

    # The slope of tanh, 1 - tanh^2, lies in [0, 1] and changes by at most 4 / sqrt(27) times what its argument does.
    inner = added(product(exact(x), exact(first).t, half), exact(shift))
    hidden = inner.function(torch.tanh, 1.0)
    slope = inner.function(slope_of_tanh, 0.77)
    output = product(hidden, exact(second).t, half)
    gradient = exact(upstream)
    if activate_last:
        gradient = gradient * output.function(slope_of_tanh, 0.77)
        output = output.function(torch.tanh, 1.0)
    by_inner = product(gradient, exact(second), half) * slope
    assert_within(result, output)
    assert_within(found[0], product(by_inner, exact(first), half))
    assert_within(found[1], product(by_inner.t, exact(x), half))
    assert_within(found[2], product(gradient.t, hidden, half))
    assert_within(found[3], by_inner.sum(0))


@HALVES
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape], ids=str)
def test_decoder_in_autocast(shape, half):
    z, weight, bias, x, upstream = operands(shape)
    first = torch.randn(z.shape[-1], 5, generator=torch.Generator().manual_seed(2)).to(place.device) / 5**0.5
    z = z.flatten(0, 1)[..., :1].expand(-1, 5).reshape(*z.shape[:2], 5).contiguous()
    given = [tensor.requires_grad_() for tensor in (z, first, weight, bias, x)]
    with torch.autocast(REGION, half):
        result = fastvi.mlp_bernoulli_log_prob(z, [first, weight], [None, bias], x, "tanh")
    found = torch.autograd.grad(result, given, upstream)

    rows, scale = exact(z.flatten(0, 1)), exact(upstream.reshape(-1))
    inner = product(rows, exact(first).t, half)
    hidden = inner.function(torch.tanh, 1.0)
    value, by_hidden, by_weight, by_bias, _ = head_bounds(
        hidden, exact(weight), exact(bias), exact(x.repeat(z.shape[0], 1)), scale, half, False
    )
    by_inner = by_hidden * inner.function(slope_of_tanh, 0.77)
    assert_within(result.reshape(-1), value)
    assert_within(found[0].flatten(0, 1), product(by_inner, exact(first), half))
    assert_within(found[1], product(by_inner.t, rows, half))
    assert_within(found[2], by_weight)
    assert_within(found[3], by_bias)


@HALVES
def test_dtypes_in_autocast(half):
    """As of nn.Linear there: each gradient has the dtype of its tensor; the result is float32."""
    h, weight, bias, x, upstream = operands((2, 3, 4, 5))
    mixed = [h.to(half).requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), x]
    with torch.autocast(REGION, half):
        results = (
            fastvi.linear_bernoulli_log_prob(*mixed),
            fastvi.mlp_bernoulli_log_prob(mixed[0], [mixed[1]], [mixed[2]], x),
            fastvi.mlp(mixed[0], [mixed[1]], [mixed[2]]).sum(-1),
        )
    for result in results:
        assert result.dtype == torch.float32
        found = torch.autograd.grad(result, mixed[:3], upstream)
        assert [each.dtype for each in found] == [half, torch.float32, torch.float32]


def test_float64_stays_in_autocast():
    given = [tensor.double() for tensor in operands((2, 3, 4, 5))[:4]]
    expected = fastvi.linear_bernoulli_log_prob(*given)
    with torch.autocast(REGION, torch.bfloat16):
        assert torch.equal(fastvi.linear_bernoulli_log_prob(*given), expected)


@pytest.mark.skipif(REGION != "cpu", reason="GPUs with kernels multiply both dtypes")
def test_a_processor_without_instructions_computes_in_float32(monkeypatch):
    monkeypatch.setattr(_precision, "MULTIPLIED_BY_PROCESSOR", frozenset())
    h, weight, bias, x, _ = operands((2, 3, 40, 50))
    with torch.autocast("cpu", torch.bfloat16):
        head, perceptron = fastvi.linear_bernoulli_log_prob(h, weight, bias, x), fastvi.mlp(h, [weight], [bias])
    assert torch.equal(head, fastvi.linear_bernoulli_log_prob(h, weight, bias, x))
    assert torch.equal(perceptron, fastvi.mlp(h, [weight], [bias]))


@pytest.mark.parametrize("name", ["linear_bernoulli_log_prob", "mlp", "mlp_bernoulli_log_prob"])
def test_other_product_dtypes_are_refused(name):
    h, weight, bias, x, _ = operands((2, 3, 4, 5))
    arguments = {
        "linear_bernoulli_log_prob": (h, weight, bias, x),
        "mlp": (h, weight, bias, *[None] * 6, "tanh", False),
        "mlp_bernoulli_log_prob": (h, x, weight, bias, *[None] * 6, "tanh"),
    }[name]
    for dtype in (torch.float32, torch.float64, torch.int64):
        with pytest.raises(TypeError, match=f"{name}: product_dtype is {dtype}, expected None, torch.bfloat16 or"):
            getattr(torch.ops.fastvi, name)(*arguments, dtype)


class Decoder(torch.nn.Module):
    """A decoder whose whole forward pass is in a region."""

    def __init__(self, half: torch.dtype) -> None:
        super().__init__()
        self.half = half

    def forward(self, h: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(REGION, self.half):
            hidden = fastvi.mlp(h, [weight.t() @ weight], None, "tanh", True)
            return fastvi.linear_bernoulli_log_prob(hidden, weight, bias, x)


@pytest.mark.composition
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_and_exported_in_autocast():
    *given, upstream = operands((2, 3, 4, 5))
    given = [tensor.requires_grad_() for tensor in given]
    decoder = Decoder(torch.bfloat16)
    expected = decoder(*given)
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")(*given)
    assert torch.equal(compiled, expected)
    for one, other in zip(*(torch.autograd.grad(r, given, upstream) for r in (compiled, expected)), strict=True):
        torch.testing.assert_close(
            one, other, rtol=0.02, atol=0.02
        )  # PyTorch's own product is differentiated otherwise
    file = io.BytesIO()
    plain = tuple(tensor.detach() for tensor in given)
    torch.export.save(torch.export.export(decoder, plain), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(*plain), expected)


@pytest.mark.composition
def test_transforms_in_autocast():
    """Where the plain formula is mapped, its products are those of float32."""
    h, weight, bias, x, _ = operands((4, 3, 5, 6))
    expected = fastvi.linear_bernoulli_log_prob(h, weight, bias, x)

    def total(h: Tensor) -> Tensor:
        return ops.linear_bernoulli_log_prob(h, weight, bias, x).sum()

    with torch.autocast(REGION, torch.bfloat16):
        mapped = torch.func.vmap(lambda h: ops.linear_bernoulli_log_prob(h, weight, bias, x))(h)
        gradient = torch.func.vmap(torch.func.grad(total))(h)
        _, tangent = torch.func.jvp(total, (h,), (torch.ones_like(h),))
    torch.testing.assert_close(mapped, expected)
    torch.testing.assert_close(tangent, gradient.sum(), rtol=0.02, atol=0.02)  # grad is that of the operator
