"""The stub of the native modules names what the modules have, and what their lists of operations declare."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastvi
from fastvi import _native

STUB = ast.parse((Path(fastvi.__file__).parent / "_kernels.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


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
    assert functions_of(getattr(_native.module(), place)) == set(declared(stub))


def test_functions_of_the_module() -> None:
    assert functions_of(_native.module()) == {*declared("NativeModule"), *declared("CpuModule")}


def test_arguments_are_those_of_the_lists() -> None:
    module = _native.module()
    lists = {name: [*operands, *constants] for name, operands, _, constants in module.row_operations()}
    for name, states, factors, _, constants, _ in module.map_operations():
        lists[name] = [*states, *factors, *constants]
    forward, backward = declared("Forward"), declared("Backward")
    for name, arguments in lists.items():
        assert forward[name] == arguments
        assert backward[name][-len(arguments) - 1 :] == [*arguments, "needs"]
