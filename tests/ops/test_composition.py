"""Every operation, through everything PyTorch does to functions, in every dtype.

Run as a program, the file prints what holds as a table; run by pytest, every cell of it is a test. Results are compared
with the plain formula's in float64, of the same values.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import fastvi
from support.operations import (
    OPERATIONS,
    SEED,
    TYPICAL,
    WITH_PRODUCTS,
    Sample,
    as_tuple,
    derivative,
    gradients,
    weighted_sum,
)
from support.place import place

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BATCH = 2

# Elements are compared relative to the largest one of their tensor. float64: another order of the same operations.
# float32: sums of up to a hundred terms, twice differentiated. Half precision is rounded once for each result, twice
# where gradients are added or differentiated again; eps is twice the error of one rounding.
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 1e-5,
    torch.bfloat16: 2 * torch.finfo(torch.bfloat16).eps,
    torch.float16: 2 * torch.finfo(torch.float16).eps,
}


class Draw(NamedTuple):
    """`fastvi.standard_normal`, which has no tensor argument but its seed."""

    operation: str = "standard_normal"


SUBJECTS: dict[str, Sample | Draw] = {"standard_normal": Draw()} | {
    operation: next(sample for sample in TYPICAL if sample.operation == operation) for operation in OPERATIONS
}


def assert_close(results: Any, expected: Any, dtype: torch.dtype, precision: torch.dtype | None = None) -> None:
    """Compare all tensors of two structures with a float64 one, and the dtype of the results.

    ``precision`` is that of the arithmetic, where it is less than the one that ``dtype`` holds.
    """
    found = tree_leaves(results)
    for result, formula in zip(found, tree_leaves(expected), strict=True):
        assert result.dtype == dtype
        scale = formula.abs().max().item() if formula.numel() else 0.0
        torch.testing.assert_close(
            result.double(), formula.double(), rtol=0, atol=TOLERANCE[precision or dtype] * scale
        )


def scalar(function: Callable[..., Any]) -> Callable[..., Tensor]:
    return lambda *tensors: weighted_sum(function(*tensors))


class Case:
    """One operation in one dtype: the operation and its formula, with values of that dtype and as float64."""

    def __init__(self, sample: Sample, dtype: torch.dtype) -> None:
        self.sample = sample
        self.dtype = dtype
        self.everything = tuple(range(len(sample.names)))

    def compare(self, transform: Callable[[Callable[..., Any], list[Tensor], list[Tensor]], Any]) -> None:
        """``transform(function, tensors, directions)`` of the operation and of the formula."""
        tensors, directions = self.sample.tensors(self.dtype), self.sample.tensors(self.dtype, seed=1)
        expected = transform(self.sample.twin, [t.double() for t in tensors], [t.double() for t in directions])
        assert_close(transform(self.sample.call, tensors, directions), expected, self.dtype)

    def compare_compiled(self, transform: Callable[[Callable[..., Any]], Callable[..., Any]], batched: bool) -> None:
        """A transform of the operation, compiled to one graph, with that of the formula."""
        tensors = self.sample.tensors(self.dtype)
        if batched:
            tensors = stacked(tensors, self.sample.tensors(self.dtype, seed=1))
        ours, twin = transform(self.sample.call), transform(self.sample.twin)
        compiled = torch.compile(lambda *values: ours(*values), fullgraph=True, backend="aot_eager")
        assert_close(compiled(*tensors), twin(*(tensor.double() for tensor in tensors)), self.dtype)


def stacked(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    return [torch.stack(pair) for pair in zip(first, second, strict=True)]


def one_by_one(function: Callable[..., Any], first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """What ``vmap`` over two examples promises."""
    return stacked(tree_leaves(function(*first)), tree_leaves(function(*second)))


def with_grad(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in tensors]


def run_forward(case: Case) -> None:
    case.compare(lambda function, tensors, _: function(*tensors))


def run_backward(case: Case) -> None:
    case.compare(lambda function, tensors, _: gradients(function, with_grad(tensors)))


def run_double_backward(case: Case) -> None:
    case.compare(lambda function, tensors, _: gradients(derivative(function), with_grad(tensors)))


def run_grad(case: Case) -> None:
    case.compare(lambda function, tensors, _: torch.func.grad(scalar(function), case.everything)(*tensors))


def run_vmap(case: Case) -> None:
    tensors, others = case.sample.tensors(case.dtype), case.sample.tensors(case.dtype, seed=1)
    expected = one_by_one(case.sample.twin, [t.double() for t in tensors], [t.double() for t in others])
    assert_close(torch.func.vmap(case.sample.call)(*stacked(tensors, others)), expected, case.dtype)


def run_vmap_of_grad(case: Case) -> None:
    ours, twin = (torch.func.grad(scalar(f), case.everything) for f in (case.sample.call, case.sample.twin))
    tensors, others = case.sample.tensors(case.dtype), case.sample.tensors(case.dtype, seed=1)
    expected = one_by_one(twin, [t.double() for t in tensors], [t.double() for t in others])
    assert_close(torch.func.vmap(ours)(*stacked(tensors, others)), expected, case.dtype)


def hessian_of(function: Callable[..., Any], case: Case, jacobian: Callable[..., Any]) -> Callable[..., Any]:
    return jacobian(torch.func.grad(scalar(function), case.everything), case.everything)


def run_jacrev_of_grad(case: Case) -> None:
    case.compare(lambda function, tensors, _: hessian_of(function, case, torch.func.jacrev)(*tensors))


def run_jvp(case: Case) -> None:
    def dual(function: Callable[..., Any], tensors: list[Tensor], directions: list[Tensor]) -> Any:
        with forward_ad.dual_level():
            pairs = [forward_ad.make_dual(*pair) for pair in zip(tensors, directions, strict=True)]
            return [forward_ad.unpack_dual(output).tangent for output in as_tuple(function(*pairs))]

    case.compare(lambda function, tensors, directions: torch.func.jvp(function, tuple(tensors), tuple(directions)))
    case.compare(dual)


def run_jacfwd(case: Case) -> None:
    case.compare(lambda function, tensors, _: torch.func.jacfwd(function, case.everything)(*tensors))


def run_hessian(case: Case) -> None:
    case.compare(lambda function, tensors, _: torch.func.hessian(scalar(function), case.everything)(*tensors))
    case.compare(
        lambda function, tensors, _: torch.func.jacfwd(
            torch.func.jacfwd(scalar(function), case.everything), case.everything
        )(*tensors)
    )


def run_compile(case: Case) -> None:
    tensors = with_grad(case.sample.tensors(case.dtype))
    double = with_grad([tensor.detach().double() for tensor in tensors])
    compiled = torch.compile(case.sample.call, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*tensors), case.sample.twin(*double), case.dtype)
    assert_close(gradients(compiled, tensors), gradients(case.sample.twin, double), case.dtype)


def run_compile_of_grad(case: Case) -> None:
    case.compare_compiled(lambda function: torch.func.grad(scalar(function), case.everything), batched=False)


def run_compile_of_vmap_of_grad(case: Case) -> None:
    case.compare_compiled(
        lambda function: torch.func.vmap(torch.func.grad(scalar(function), case.everything)), batched=True
    )


class Call(torch.nn.Module):
    """An operation as a module that holds its tensors as parameters, and what it was called with."""

    def __init__(self, sample: Sample, tensors: list[Tensor]) -> None:
        super().__init__()
        self.sample = sample
        self.held = torch.nn.ParameterList(tensors)

    def forward(self, scale: Tensor) -> Any:
        return self.sample.call(*(tensor * scale for tensor in self.held))


def run_export(case: Case) -> None:
    tensors, one = case.sample.tensors(case.dtype), place.ones((), dtype=case.dtype)
    exported = torch.export.export(Call(case.sample, tensors), (one,))
    assert f"fastvi.{case.sample.operation}" in str(exported.graph)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert_close(loaded(one), case.sample.twin(*(tensor.double() for tensor in tensors)), case.dtype)


def run_opcheck(case: Case) -> None:
    operator = getattr(torch.ops.fastvi, case.sample.operation).default
    tensors = case.sample.tensors(case.dtype, requires_grad=True)
    torch.library.opcheck(operator, case.sample.operator_arguments(tensors), test_utils=OPCHECKS)


# The third, of compiled gradients, is in test_transforms.py; here run_compile compares them with the formula's.
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def run_autocast(case: Case) -> None:
    """Half precision goes in, float32 comes out, as of PyTorch's losses; float32 and float64 stay what they are.

    Matrix products are as exact as the region's dtype, but for float64 ones.
    """
    tensors = with_grad(case.sample.tensors(case.dtype))
    double = with_grad([tensor.detach().double() for tensor in tensors])
    widened = torch.float32 if case.dtype in (torch.bfloat16, torch.float16) else case.dtype
    for inside in (torch.bfloat16, torch.float16):
        with torch.autocast(place.device, dtype=inside):
            outputs = case.sample.call(*tensors)
            found = gradients(case.sample.call, tensors)
        precision = None
        if case.sample.operation in WITH_PRODUCTS and case.dtype is not torch.float64:
            precision = max((case.dtype, inside), key=lambda dtype: TOLERANCE[dtype])
        assert_close(outputs, case.sample.twin(*double), widened, precision)
        assert_close(found, gradients(case.sample.twin, double), case.dtype, precision)


def run_checkpoint(case: Case) -> None:
    """A draw without a seed is the same draw when it is run again."""
    constants = case.sample.constants
    sample = Sample(
        case.sample.operation,
        case.sample.label,
        case.sample.arguments,
        constants | {"seed": None} if "seed" in constants else constants,
    )
    found = []
    for function in (sample.call, lambda *values: checkpoint(sample.call, *values, use_reentrant=False)):
        torch.manual_seed(0)
        found.append(gradients(function, sample.tensors(case.dtype, requires_grad=True)))
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


def run_copies(case: Case) -> None:
    module = Call(case.sample, case.sample.tensors(case.dtype))
    one = place.ones((), dtype=case.dtype)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for result, expected in zip(as_tuple(twin(one)), as_tuple(module(one)), strict=True):
            assert torch.equal(result, expected)


TRANSFORMS: dict[str, Callable[[Case], None]] = {
    "forward": run_forward,
    "backward": run_backward,
    "double backward": run_double_backward,
    "grad": run_grad,
    "vmap": run_vmap,
    "vmap(grad)": run_vmap_of_grad,
    "jacrev(grad)": run_jacrev_of_grad,
    "jvp": run_jvp,
    "jacfwd": run_jacfwd,
    "hessian": run_hessian,
    "compile": run_compile,
    "compile(grad)": run_compile_of_grad,
    "compile(vmap(grad))": run_compile_of_vmap_of_grad,
    "export": run_export,
    "opcheck": run_opcheck,
    "autocast": run_autocast,
    "checkpoint": run_checkpoint,
    "copy, pickle": run_copies,
}


class DrawModule(torch.nn.Module):
    """Five draws, from a seed that is given or, where it is None, drawn."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, seed: Tensor | None) -> Tensor:
        return fastvi.standard_normal((5,), seed, dtype=self.dtype, device=place.device)


def draw_forward(dtype: torch.dtype) -> None:
    expected = fastvi.standard_normal((5,), SEED, dtype=torch.float64, device=place.device)
    assert_close(DrawModule(dtype)(place.tensor(SEED)), expected, dtype)


def draw_vmap(dtype: torch.dtype) -> None:
    seeds = place.arange(3)
    together = torch.func.vmap(DrawModule(dtype))(seeds)
    assert torch.equal(together, torch.stack([DrawModule(dtype)(seed) for seed in seeds]))
    for randomness, alike in (("same", True), ("different", False)):
        rows = torch.func.vmap(lambda _: DrawModule(dtype)(None), randomness=randomness)(seeds)
        assert torch.equal(rows[0], rows[1]) == alike
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(lambda _: DrawModule(dtype)(None))(seeds)


def draw_compile(dtype: torch.dtype) -> None:
    compiled = torch.compile(DrawModule(dtype), fullgraph=True, backend="aot_eager")
    seed = place.tensor(SEED)
    assert torch.equal(compiled(seed), DrawModule(dtype)(seed))


def draw_export(dtype: torch.dtype) -> None:
    seed = place.tensor(SEED)
    exported = torch.export.export(DrawModule(dtype), (seed,))
    assert torch.equal(exported.module()(seed), DrawModule(dtype)(seed))


def draw_opcheck(dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.fastvi.standard_normal.default, (place.tensor(SEED), [5], dtype))


def draw_autocast(dtype: torch.dtype) -> None:
    expected = DrawModule(dtype)(place.tensor(SEED))
    with torch.autocast(place.device, dtype=torch.bfloat16):  # a dtype that is asked for is given
        assert torch.equal(DrawModule(dtype)(place.tensor(SEED)), expected)


def draw_checkpoint(dtype: torch.dtype) -> None:
    """The same draw when it is run again."""
    found = []
    for call in (lambda scale: scale * DrawModule(dtype)(None), None):
        torch.manual_seed(0)
        scale = place.ones((), dtype=dtype, requires_grad=True)
        draws = call(scale) if call else checkpoint(lambda s: s * DrawModule(dtype)(None), scale, use_reentrant=False)
        draws.sum().backward()
        found.append(scale.grad)
    assert torch.equal(*found)


def draw_copies(dtype: torch.dtype) -> None:
    module, seed = DrawModule(dtype), place.tensor(SEED)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(seed), module(seed))


DRAW_TRANSFORMS: dict[str, Callable[[torch.dtype], None]] = {
    "forward": draw_forward,
    "vmap": draw_vmap,
    "compile": draw_compile,
    "export": draw_export,
    "opcheck": draw_opcheck,
    "autocast": draw_autocast,
    "checkpoint": draw_checkpoint,
    "copy, pickle": draw_copies,
}
"""A draw has no argument to be differentiated by: the other transforms do not apply to it."""

CELLS = [
    (operation, transform, dtype)
    for operation, subject in SUBJECTS.items()
    for transform in (DRAW_TRANSFORMS if isinstance(subject, Draw) else TRANSFORMS)
    for dtype in DTYPES
]


def run_cell(operation: str, transform: str, dtype: torch.dtype) -> None:
    subject = SUBJECTS[operation]
    if "compile" in transform or transform == "opcheck":
        torch.compiler.reset()  # the compiler gives up after a number of versions of one function
    if isinstance(subject, Draw):
        DRAW_TRANSFORMS[transform](dtype)
    else:
        TRANSFORMS[transform](Case(subject, dtype))


def cell_parameters() -> list[Any]:
    """The cells as tests; all but plain calls are marked as PyTorch's part, which float16 does not change."""

    def marks(cell: tuple[str, str, torch.dtype]) -> list[pytest.MarkDecorator]:
        if cell[1] in ("forward", "backward"):
            return []
        return [pytest.mark.composition, *([pytest.mark.thorough] if cell[2] is torch.float16 else [])]

    return [
        pytest.param(
            *cell,
            marks=marks(cell),
            id=f"{cell[0]}-{cell[1]}-{str(cell[2]).removeprefix('torch.')}",
        )
        for cell in CELLS
    ]


# PyTorch's own: logsigmoid under vmap of forward mode resizes a buffer; opcheck reads gradients of inner tensors.
@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("operation", "transform", "dtype"), cell_parameters())
def test_cell(operation, transform, dtype):
    run_cell(operation, transform, dtype)


def table(rows: dict[str, tuple[str, ...]]) -> list[str]:
    """The table of the page: a row for each operation that is not as most are, and one for these."""
    ((usual, _),) = Counter(rows.values()).most_common(1)
    unusual = {f"`{operation}`": row for operation, row in rows.items() if row != usual}
    head = {"operation": tuple(TRANSFORMS), "---": ("---",) * len(TRANSFORMS)}
    return [
        f"| {' | '.join([name, *row])} |" for name, row in (head | unusual | {"every other operation": usual}).items()
    ]


def test_the_page_has_the_table():
    """As the program prints it where no cell fails."""
    rows = {
        operation: tuple(
            "all" if any(cell[:2] == (operation, transform) for cell in CELLS) else "no gradient"
            for transform in TRANSFORMS
        )
        for operation in SUBJECTS
    }
    page = (Path(__file__).parents[2] / "docs" / "composition.md").read_text(encoding="utf-8")
    assert "\n".join(["", *table(rows), ""]) in page


def main() -> int:
    """Print the table; the exit status tells whether a cell failed."""
    failures: list[str] = []
    rows: dict[str, tuple[str, ...]] = {}
    for operation in SUBJECTS:
        row = []
        for transform in TRANSFORMS:
            cells = [cell for cell in CELLS if cell[:2] == (operation, transform)]
            passed = []
            for cell in cells:
                try:
                    run_cell(*cell)
                except Exception as error:
                    failures.append(f"{cell}: {type(error).__name__}: {error}")
                else:
                    passed.append(str(cell[2]).removeprefix("torch."))
            if not cells:
                row.append("no gradient")
            else:
                row.append("all" if len(passed) == len(DTYPES) else ", ".join(passed) or "none")
        rows[operation] = tuple(row)
    print("\n".join(table(rows)))
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
