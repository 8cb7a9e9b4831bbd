"""Operations under everything PyTorch does to functions: torch.func, torch.compile, torch.export, tensor subclasses."""

from __future__ import annotations

import copy
import functools
import io
import pickle

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import fastvi
from support.operations import (
    ONE_EACH,
    SAMPLES,
    TYPICAL,
    WITH_PRODUCTS,
    Sample,
    as_tuple,
    backward_call,
    derivative,
    gradients,
    weighted_sum,
)
from support.place import place

pytestmark = pytest.mark.composition

ROUNDING = {"rtol": 1e-11, "atol": 1e-11}
"""Another order of the same float64 operations, twice differentiated."""

DRAWS = [sample for sample in ONE_EACH if sample.operation.startswith("rsample")]

BATCH = 3


def scalar(function):
    return lambda *tensors: weighted_sum(function(*tensors))


def assert_all_close(results, expected):
    for result, formula in zip(as_tuple(results), as_tuple(expected), strict=True):
        torch.testing.assert_close(result, formula, **ROUNDING)


def every_argument(sample: Sample) -> tuple[int, ...]:
    return tuple(range(len(sample.names)))


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_grad(sample):
    tensors = sample.tensors()
    grads = [torch.func.grad(scalar(f), argnums=every_argument(sample))(*tensors) for f in (sample.call, sample.twin)]
    assert_all_close(*grads)


def batches_of(sample: Sample, in_dims: tuple[int | None, ...]) -> list[Tensor]:
    """Tensors of the sample, stacked along ``in_dims`` where that is not None."""
    versions = [sample.tensors(seed=seed) for seed in range(BATCH)]
    return [
        versions[0][i] if dim is None else torch.stack([version[i] for version in versions], dim)
        for i, dim in enumerate(in_dims)
    ]


def each_of_batch(function, in_dims: tuple[int | None, ...], tensors: list[Tensor]):
    """What ``vmap`` promises: a loop, and the results stacked."""
    rows = [
        as_tuple(function(*(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims, strict=True))))
        for i in range(BATCH)
    ]
    return tuple(torch.stack(outputs) for outputs in zip(*rows, strict=True))


def in_dims_of(sample: Sample) -> list[tuple[int | None, ...]]:
    """All mapped at the front; all at the back; each alone; each alone not; mixed places."""
    count = len(sample.names)
    ranks = [len(argument.shape) for argument in sample.arguments.values()]
    choices: list[tuple[int | None, ...]] = [(0,) * count, tuple(ranks)]
    for i in range(count):
        choices.append(tuple(0 if j == i else None for j in range(count)))
        if count > 1:
            choices.append(tuple(None if j == i else 0 for j in range(count)))
    choices.append(tuple(min(i, rank) for i, rank in enumerate(ranks)))
    return list(dict.fromkeys(choices))


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_vmap(sample):
    for in_dims in in_dims_of(sample):
        tensors = batches_of(sample, in_dims)
        assert_all_close(torch.func.vmap(sample.call, in_dims)(*tensors), each_of_batch(sample.call, in_dims, tensors))


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_vmap_of_grad(sample):
    for in_dims in in_dims_of(sample):
        tensors = batches_of(sample, in_dims)
        for wanted in (every_argument(sample), (len(sample.names) - 1,)):
            ours, twins = (torch.func.grad(scalar(f), argnums=wanted) for f in (sample.call, sample.twin))
            assert_all_close(torch.func.vmap(ours, in_dims)(*tensors), each_of_batch(twins, in_dims, tensors))


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_grad_of_vmap(sample):
    for in_dims in in_dims_of(sample):
        tensors = [tensor.requires_grad_() for tensor in batches_of(sample, in_dims)]
        results = gradients(torch.func.vmap(sample.call, in_dims), tensors)
        expected = gradients(functools.partial(loop, sample.twin, in_dims), tensors)
        assert_all_close(results, expected)
        transformed = torch.func.grad(scalar(torch.func.vmap(sample.call, in_dims)), argnums=every_argument(sample))
        assert_all_close(transformed(*(tensor.detach() for tensor in tensors)), expected)


def loop(function, in_dims, *tensors: Tensor):
    return each_of_batch(function, in_dims, list(tensors))


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_vmap_of_vmap(sample):
    count = len(sample.names)
    tensors = [torch.stack([tensor, 2 * tensor], -1) for tensor in batches_of(sample, (0,) * count)]
    nested = torch.func.vmap(torch.func.vmap(sample.call), in_dims=-1)
    expected = tuple(
        torch.stack(outputs)
        for outputs in zip(
            *(each_of_batch(sample.twin, (0,) * count, [t.select(-1, i) for t in tensors]) for i in range(2)),
            strict=True,
        )
    )
    assert_all_close(nested(*tensors), expected)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_jacrev_of_grad(sample):
    """The Hessian, by all arguments."""
    tensors = sample.tensors()
    wanted = every_argument(sample)
    hessians = [
        torch.func.jacrev(torch.func.grad(scalar(f), argnums=wanted), argnums=wanted)(*tensors)
        for f in (sample.call, sample.twin)
    ]
    for row, expected_row in zip(*hessians, strict=True):
        assert_all_close(row, expected_row)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_vmap_of_hessian_vector_product(sample):
    count = len(sample.names)
    tensors = batches_of(sample, (0,) * count)

    def product(function):
        def of(*values: Tensor):
            outputs, pull_back = torch.func.vjp(torch.func.grad(scalar(function), every_argument(sample)), *values)
            return pull_back(tuple(torch.cos(output) for output in outputs))

        return of

    assert_all_close(
        torch.func.vmap(product(sample.call))(*tensors), each_of_batch(product(sample.twin), (0,) * count, tensors)
    )


def test_functional_call_and_per_sample_gradients():
    """The usual recipe of per-example gradients, through a module with the fused decoder head."""
    model = VariationalAutoencoder().double().to(place.device)
    x = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(place.device)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def bound(values, x):
        return torch.func.functional_call(model, values, (x,)).sum()

    together = torch.func.vmap(torch.func.grad(bound), in_dims=(None, 0))(parameters, x.unsqueeze(1))
    for i in range(4):
        alone = torch.autograd.grad(model(x[i : i + 1]).sum(), tuple(model.parameters()))
        for name, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(together[name][i], expected, **ROUNDING)


@pytest.mark.parametrize("sample", DRAWS, ids=str)
def test_randomness_of_vmap(sample):
    """Without a seed, vmap's own rule holds: an error, one draw for all, or one for each."""
    unseeded = Sample(sample.operation, sample.label, sample.arguments, sample.constants | {"seed": None})
    tensors = batches_of(unseeded, (None,) * len(sample.names))
    copies = [tensor.expand(BATCH, *tensor.shape) for tensor in tensors]
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(unseeded.call)(*copies)
    same = as_tuple(torch.func.vmap(unseeded.call, randomness="same")(*copies))[0]
    assert torch.equal(same[0], same[1])
    different = as_tuple(torch.func.vmap(unseeded.call, randomness="different")(*copies))[0]
    assert not torch.equal(different[0], different[1])


def test_vmap_over_seeds():
    seeds = place.arange(3)
    mean, logvar = place.ones(2, 2, 4, dtype=torch.float64).unbind()

    def draws(seed):
        return (
            fastvi.rsample_normal(mean, logvar, 5, seed=seed),
            *fastvi.rsample_normal_with_log_ratio(mean, logvar, 5, seed=seed),
            fastvi.standard_normal((2, 4), seed, dtype=torch.float64, device=place.device),
        )

    for i, results in enumerate(zip(*torch.func.vmap(draws)(seeds), strict=True)):
        assert_all_close(results, draws(seeds[i]))


def push_forward(function, tensors, directions):
    """Outputs and tangents, by dual tensors."""
    with forward_ad.dual_level():
        pairs = [forward_ad.make_dual(*pair) for pair in zip(tensors, directions, strict=True)]
        return [each for output in as_tuple(function(*pairs)) for each in forward_ad.unpack_dual(output)]


# logsigmoid in the formula, under vmap of forward mode, resizes a buffer of its own.
RESIZED = pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")


@RESIZED
@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_forward_mode_nested_with_everything(sample):
    """Forward over forward, over reverse and under it, under vmap, and of a gradient: no tangent is lost on the way."""
    tensors, directions = sample.tensors(), sample.tensors(seed=1)
    wanted = every_argument(sample)
    pairs = [torch.stack([t, u]) for t, u in zip(tensors, directions, strict=True)]

    def each_way(function):
        number = scalar(function)
        slopes = torch.func.grad(number, wanted)
        yield push_forward(function, tensors, directions)
        yield torch.func.jacfwd(torch.func.jacfwd(number, wanted), wanted)(*tensors)
        yield torch.func.jacrev(torch.func.jacfwd(number, wanted), wanted)(*tensors)
        yield torch.func.jacfwd(slopes, wanted)(*tensors)
        yield torch.func.jvp(slopes, tuple(tensors), tuple(directions))
        yield torch.func.vmap(lambda *values: torch.func.jvp(function, values, tuple(directions)))(*pairs)
        yield push_forward(
            lambda *values: torch.autograd.grad(number(*(v.requires_grad_() for v in values)), values),
            [tensor.clone() for tensor in tensors],
            directions,
        )
        for i in wanted:  # one argument moves, the others are constants

            def alone(value, i=i):
                return function(*tensors[:i], value, *tensors[i + 1 :])

            yield torch.func.jvp(alone, (tensors[i],), (directions[i],))

    for ours, twin in zip(each_way(sample.call), each_way(sample.twin), strict=True):
        assert_all_close(tuple(tree_leaves(ours)), tuple(tree_leaves(twin)))


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_forward_mode_through_a_graph_recorded_before(sample):
    """The gradient is linear in what comes from above: its tangent, along a tangent of that, is the gradient again."""
    for function in (sample.call, sample.twin):
        tensors = sample.tensors(requires_grad=True)
        outputs = as_tuple(function(*tensors))
        above = [torch.cos(output.detach()) for output in outputs]

        def pull_back(*grads, outputs=outputs, tensors=tensors):
            return torch.autograd.grad(outputs, tensors, grads, retain_graph=True, materialize_grads=True)

        results = push_forward(pull_back, above, [2 * each for each in above])
        assert_all_close(results[1::2], [2 * each for each in results[::2]])


class VariationalAutoencoder(torch.nn.Module):
    """Every step of a bound on 6 pixels: draw, log ratio, fused decoder head, log-mean-exp."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = torch.nn.Linear(6, 4)
            self.hidden = torch.nn.Linear(2, 5)
            self.head = torch.nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar = self.encoder(x).chunk(2, -1)
        z, log_ratio = fastvi.rsample_normal_with_log_ratio(mean, logvar, 3, seed=5)
        h = torch.tanh(self.hidden(z))
        log_likelihood = fastvi.linear_bernoulli_log_prob(h, self.head.weight, self.head.bias, x)
        return fastvi.log_mean_exp(log_likelihood + log_ratio, 0)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_compiled_forward_and_backward(sample):
    tensors = sample.tensors(requires_grad=True)
    compiled = torch.compile(sample.call, fullgraph=True, backend="aot_eager")
    assert_all_close(compiled(*tensors), sample.call(*tensors))
    assert_all_close(gradients(compiled, tensors), gradients(sample.call, tensors))
    detached = [tensor.detach() for tensor in tensors]
    assert_all_close(compiled(*detached), sample.call(*detached))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
@pytest.mark.parametrize("transform", ["vmap", "jacrev of grad"])
def test_compiled_transforms(sample, transform):
    wanted = every_argument(sample)
    tensors = sample.tensors() if "vmap" not in transform else batches_of(sample, (0,) * len(wanted))

    def transformed(function):
        if transform == "vmap":
            return torch.func.vmap(function)
        return torch.func.jacrev(torch.func.grad(scalar(function), argnums=wanted))

    ours = transformed(sample.call)
    compiled = torch.compile(lambda *values: ours(*values), fullgraph=True, backend="aot_eager")
    assert_all_close(compiled(*tensors), transformed(sample.twin)(*tensors))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_inductor_compiles_a_training_step():
    """The default backend fuses what surrounds the operations; shapes may change between calls."""
    model = VariationalAutoencoder().double().to(place.device)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for batch in (4, 7, 3):
        x = torch.rand(batch, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(batch)).to(place.device)
        results = []
        for function in (model, compiled):
            bound = function(x)
            results.append((bound, *torch.autograd.grad(bound.sum(), tuple(model.parameters()))))
        assert_all_close(*results)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_draws_follow_the_generator(backend):
    """Without a seed two calls differ, and ``torch.manual_seed`` makes them repeat."""
    mean = place.zeros(3, 4)

    def draw(mean: Tensor) -> tuple[Tensor, Tensor]:
        return fastvi.rsample_normal(mean, mean, 2), fastvi.standard_normal((5,), device=place.device)

    compiled = torch.compile(draw, fullgraph=True, backend=backend)
    torch.manual_seed(3)
    first, second = compiled(mean), compiled(mean)
    torch.manual_seed(3)
    again = compiled(mean)
    for a, b, c in zip(first, second, again, strict=True):
        assert not torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_with_dynamic_shapes():
    """One graph for all sizes: the sizes in sample_shape and row_offset may be symbols too."""
    graphs = 0

    def counting(graph, _):
        nonlocal graphs
        graphs += 1
        return graph.forward

    def draw(mean: Tensor, samples: Tensor, offset: int) -> Tensor:
        return fastvi.rsample_normal(mean, mean, samples.shape[0], seed=1, row_offset=offset)

    compiled = torch.compile(draw, fullgraph=True, dynamic=True, backend=counting)
    for rows, samples, offset in ((5, 3, 7), (6, 4, 9), (9, 5, 11)):
        mean = place.linspace(0, 1, rows * 4).reshape(rows, 4)
        expected = fastvi.rsample_normal(mean, mean, samples, seed=1, row_offset=offset)
        assert torch.equal(compiled(mean, place.empty(samples), offset), expected)
    assert graphs == 1


class Call(torch.nn.Module):
    """An operation as a module."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.sample = sample

    def forward(self, *tensors: Tensor):
        return self.sample.call(*tensors)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_export(sample, strict):
    exported = torch.export.export(Call(sample), tuple(sample.tensors()), strict=strict)
    assert f"fastvi.{sample.operation}" in str(exported.graph)
    tensors = sample.tensors(seed=1)
    assert_all_close(exported.module()(*tensors), sample.call(*tensors))


def test_export_with_a_dynamic_batch_to_a_file():
    model = VariationalAutoencoder().eval().to(place.device)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).to(place.device)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (4, 9):
        x = torch.rand(batch, 6, generator=torch.Generator().manual_seed(batch)).to(place.device)
        assert torch.equal(loaded(x), model(x))


class PerceptronDecoder(torch.nn.Module):
    """The likelihoods of a batch of observations under each of 3 draws: leading shapes of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 5), torch.nn.Linear(5, 6)])

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stack([x[:, :2], x[:, 2:4], x[:, 4:]])
        weights = [layer.weight for layer in self.layers]
        biases = [layer.bias for layer in self.layers]
        return fastvi.mlp_bernoulli_log_prob(z, weights, biases, x, "tanh")


def test_export_with_a_dynamic_batch_of_fewer_leading_dimensions():
    decoder = PerceptronDecoder().to(place.device)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).to(place.device)
    exported = torch.export.export(decoder, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for batch in (3, 4, 9):  # as many observations as draws, too
        x = torch.rand(batch, 6, generator=torch.Generator().manual_seed(batch)).to(place.device)
        assert torch.equal(exported(x), decoder(x))


# opcheck of torch 2.14 itself looks at gradients of what are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_opcheck(sample):
    """Schema, fake implementation, autograd registration and compiled dispatch, with gradients and without."""
    operator = getattr(torch.ops.fastvi, sample.operation).default
    for requires_grad in (False, True):
        torch.library.opcheck(operator, sample.operator_arguments(sample.tensors(requires_grad=requires_grad)))


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_opcheck_of_backward(sample):
    torch.library.opcheck(*backward_call(sample))


@pytest.mark.parametrize("name", ["standard_normal", "normal_noise"])
def test_opcheck_of_draws(name):
    seed = place.tensor(3)
    arguments = (seed, [5, 3], torch.float32) if name == "standard_normal" else (seed, [2, 5, 3], 7, torch.float64)
    torch.library.opcheck(getattr(torch.ops.fastvi, name).default, arguments)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_fake_tensors(sample):
    """Shape, dtype and strides without the values; gradients too."""
    tensors = sample.tensors(requires_grad=True)
    expected = (*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in tensors]
        results = (*as_tuple(sample.call(*fakes)), *gradients(sample.call, fakes))
    for result, real in zip(results, expected, strict=True):
        assert (result.shape, result.dtype, result.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_meta_tensors(sample):
    tensors = sample.tensors(requires_grad=True)
    expected = (*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors))
    metas = [tensor.detach().to("meta").requires_grad_() for tensor in tensors]
    for result, real in zip((*as_tuple(sample.call(*metas)), *gradients(sample.call, metas)), expected, strict=True):
        assert result.device.type == "meta"
        assert (result.shape, result.dtype) == (real.shape, real.dtype)


class Tagged(Tensor):
    """A subclass that only gives itself another name."""


class Wrapper(Tensor):
    """A subclass without memory of its own, as distributed and quantised tensors are: it hands on to what it holds."""

    @staticmethod
    def __new__(cls, held: Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, device=held.device, strides=held.stride()
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        unwrapped = torch.utils._pytree.tree_map_only(Wrapper, lambda wrapper: wrapper.held, (args, kwargs or {}))
        results = function(*unwrapped[0], **unwrapped[1])
        return torch.utils._pytree.tree_map_only(Tensor, Wrapper, results)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_subclass_without_memory(sample):
    tensors = sample.tensors()
    for result, expected in zip(
        as_tuple(sample.call(*(Wrapper(tensor) for tensor in tensors))), as_tuple(sample.call(*tensors)), strict=True
    ):
        assert isinstance(result, Wrapper)
        torch.testing.assert_close(result.held, expected, **ROUNDING)
    wrapped = [Wrapper(tensor).requires_grad_() for tensor in tensors]
    found = torch.autograd.grad(
        sum(output.sum() for output in as_tuple(sample.call(*wrapped))), wrapped, materialize_grads=True
    )
    plain = [tensor.requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(
        sum(output.sum() for output in as_tuple(sample.call(*plain))), plain, materialize_grads=True
    )
    for result, formula in zip(found, expected, strict=True):
        torch.testing.assert_close(result.held, formula, **ROUNDING)


@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_subclass_by_name(sample):
    tensors = sample.tensors()
    expected = as_tuple(sample.call(*tensors))
    results = as_tuple(sample.call(*(tensor.as_subclass(Tagged) for tensor in tensors)))
    for result, plain in zip(results, expected, strict=True):
        torch.testing.assert_close(result.as_subclass(Tensor), plain, **ROUNDING)


@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_modes_see_the_operator(sample):
    seen: list[str] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(f"function {function}")
            return function(*args, **(kwargs or {}))

    class Dispatches(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(f"dispatch {function}")
            return function(*args, **(kwargs or {}))

    tensors = sample.tensors(requires_grad=True)
    expected = gradients(sample.call, tensors)
    with Functions():
        sample.call(*tensors)
    assert any(f"fastvi.{sample.operation}" in each for each in seen), seen
    seen.clear()
    with Dispatches():
        results = gradients(sample.call, tensors)
    assert f"dispatch fastvi.{sample.operation}.default" in seen
    assert f"dispatch fastvi.{sample.operation}_backward.default" in seen
    assert_all_close(results, expected)


@pytest.mark.parametrize("sample", [each for each in TYPICAL if each.operation not in WITH_PRODUCTS], ids=str)
def test_autocast_changes_nothing(sample):
    """float32 stays float32 in a bfloat16 region, forward and backward, on every route."""
    tensors = sample.tensors(torch.float32, requires_grad=True)
    expected = (*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors))
    with torch.autocast(place.device, dtype=torch.bfloat16):
        results = (*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors))
        operator = getattr(torch.ops.fastvi, sample.operation)
        by_operator = as_tuple(operator(*sample.operator_arguments(tensors)))
    for result, plain in zip(results, expected, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, plain, rtol=0, atol=0)
    for result, plain in zip(by_operator, as_tuple(sample.call(*tensors)), strict=False):
        torch.testing.assert_close(result, plain, rtol=0, atol=0)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_second_order_in_autocast(sample):
    """The plain formula behind second derivatives contains matrix products, which autocast would round."""
    tensors = sample.tensors(torch.float32, requires_grad=True)
    expected = gradients(derivative(sample.call), tensors)
    with torch.autocast(place.device, dtype=torch.bfloat16):
        results = gradients(derivative(sample.call), tensors)
    for result, plain in zip(results, expected, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, plain, rtol=1e-5, atol=1e-5)  # the weighted sums run in another order


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_checkpoint(sample, use_reentrant):
    """Run again in the backward pass, a draw without a seed is the same draw."""
    if "seed" in sample.constants:
        sample = Sample(sample.operation, sample.label, sample.arguments, sample.constants | {"seed": None})
    tensors = sample.tensors(requires_grad=True)

    def once_more(*values: Tensor):
        return checkpoint(sample.call, *values, use_reentrant=use_reentrant)

    found = []
    for function in (once_more, sample.call):
        torch.manual_seed(0)
        copies = [tensor.detach().requires_grad_() for tensor in tensors]
        weighted_sum(function(*copies)).backward()
        found.append([torch.zeros_like(copy) if copy.grad is None else copy.grad for copy in copies])
    for result, expected in zip(*found, strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_saved_tensor_hooks():
    """Saved tensors may be moved elsewhere and brought back, here through bytes."""

    def pack(tensor: Tensor) -> bytes:
        file = io.BytesIO()
        torch.save(tensor.detach(), file)
        return file.getvalue()

    def unpack(packed: bytes) -> Tensor:
        return torch.load(io.BytesIO(packed))

    for sample in ONE_EACH:
        tensors = sample.tensors(requires_grad=True)
        expected = gradients(sample.call, tensors)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            results = gradients(sample.call, tensors)
        assert_all_close(results, expected)


def test_pickle_and_copy():
    model = VariationalAutoencoder().to(place.device)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).to(place.device)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(twin(x), expected)
    for name in fastvi.ops.__all__:
        function = getattr(fastvi, name)
        assert pickle.loads(pickle.dumps(function)) is function


def test_transforms_and_modes_leave_nothing_behind():
    sample = ONE_EACH[0]
    tensors = sample.tensors()
    before = sample.call(*tensors)
    torch.func.grad(scalar(sample.call))(*tensors)
    with FakeTensorMode() as mode:
        sample.call(*(mode.from_tensor(tensor) for tensor in tensors))
    assert torch.equal(sample.call(*tensors), before)
