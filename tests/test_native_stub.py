"""The stub of the native modules names what the modules have, but for the operations that their lists declare.

Those are called as declared, and the public functions and formulas name their arguments likewise.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import fastvi
import fastvi.numpy
from fastvi import _native, reference

STUB = ast.parse((Path(fastvi.__file__).parent / "_kernels.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


# For each operation of the lists: its tensors, in which a number may stand for a factor, and its constants.
LISTED = {name: (operands, constants) for name, operands, _, constants in _native.module().row_operations()} | {
    name: ([*states, *factors], constants)
    for name, states, factors, _, constants, _ in _native.module().map_operations()
}


def declared(name: str) -> dict[str, list[str]]:
    """The functions of a class of the stub, with the names of their arguments."""
    functions = [node for node in CLASSES[name].body if isinstance(node, ast.FunctionDef)]
    return {each.name: [a.arg for a in each.args.posonlyargs[1:]] for each in functions}


def functions_of(module: object) -> set[str]:
    return {name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))}


@pytest.mark.parametrize(
    ("place", "stub"),
    [
        ("forward", "Forward"),
        ("attempt", "Forward"),
        ("numpy", "Forward"),
        ("backward", "Backward"),
        ("attempt_backward", "Backward"),
    ],
)
def test_functions_of_operations(place: str, stub: str) -> None:
    written_out = set(declared(stub)) - {"__getattr__"}
    assert not written_out & set(LISTED)
    assert functions_of(getattr(_native.module(), place)) == written_out | set(LISTED)


def test_functions_of_the_module() -> None:
    assert functions_of(_native.module()) == {*declared("NativeModule"), *declared("CpuModule")}


@pytest.mark.parametrize("name", LISTED)
def test_arguments_are_those_of_the_lists(name: str) -> None:
    tensors, constants = LISTED[name]
    declared = [*tensors, *constants]
    for function in (getattr(fastvi, name), getattr(fastvi.numpy, name), getattr(reference, name)):
        assert [*inspect.signature(function).parameters][: len(declared)] == declared


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("place", ["forward", "numpy", "backward"])
def test_functions_take_as_many_arguments_as_are_listed(place: str, name: str) -> None:
    module = _native.module()
    count = sum(map(len, LISTED[name]))
    if place == "backward":  # the gradients of the results, and which gradients are wanted
        count += {name: outputs for name, *_, outputs in module.map_operations()}.get(name, 1) + 1
    function = getattr(getattr(module, place), name)
    for wrong in (count - 1, count + 1):
        with pytest.raises(TypeError, match=f"{name}.* takes {count} arguments, got {wrong}"):
            function(*[None] * wrong)
