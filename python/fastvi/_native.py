"""Finds the native modules: for the CPU, when first asked, that of the best instruction set that this processor runs.

The environment variable ``FASTVI_ISA`` (``v2``, ``v3``, ``v4`` on x86-64; ``generic`` elsewhere) overrides the choice.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, cast

from fastvi import _processor

if TYPE_CHECKING:
    from fastvi._kernels import CpuModule, NativeModule

_MINIMUM_LEVEL = {"v4": 4, "v3": 3, "v2": 2, "generic": 0}
NO_CUDA = (
    "this installation of fastvi has no CUDA kernels: build them from its source, where nvcc is found, with "
    "'pip install . --config-settings=cmake.define.FASTVI_CUDA=ON'"
)


class InstructionSetError(ImportError, ValueError):
    """The kernels that were asked for were not built or do not run on this processor, or none do."""


def available_isas() -> list[str]:
    """Instruction sets that were built and that this processor runs, best first."""
    level = _processor.microarchitecture_level()
    return [
        isa
        for isa, minimum in _MINIMUM_LEVEL.items()
        if level >= minimum and importlib.util.find_spec(f"fastvi._cpu_{isa}") is not None
    ]


def load(isa: str) -> CpuModule:
    """Import the native module of one instruction set.

    Raises
    ------
    InstructionSetError
        If ``isa`` was not built or does not run on this processor.
    """
    if isa not in available_isas():
        raise InstructionSetError(f"instruction set: got {isa!r}, expected one of {available_isas()} on this processor")
    return cast("CpuModule", importlib.import_module(f"fastvi._cpu_{isa}"))


@functools.cache
def selected_isa() -> str:
    """The instruction set in use: ``FASTVI_ISA`` where it is set, else the best available one.

    Raises
    ------
    InstructionSetError
        If ``FASTVI_ISA`` names another one than the available ones, or no built module runs on this processor.
    """
    isas = available_isas()
    requested = os.environ.get("FASTVI_ISA")
    if requested:
        if requested not in isas:
            raise InstructionSetError(f"FASTVI_ISA: got {requested!r}, expected one of {isas} on this processor")
        return requested
    if not isas:
        raise InstructionSetError("fastvi: no native module runs on this processor; x86-64-v2 is the least on x86-64")
    return isas[0]


@functools.cache
def module() -> CpuModule:
    """The native module in use."""
    return load(selected_isa())


def cuda_module() -> NativeModule:
    """The native module for CUDA devices.

    Raises
    ------
    ImportError
        If it was not built.
    """
    if "cuda" not in backends():
        raise ImportError(f"fastvi: {NO_CUDA}")
    return cast("NativeModule", importlib.import_module("fastvi._cuda"))


def backends() -> list[str]:
    """Kinds of device that have kernels in this installation."""
    return ["cpu", "cuda"] if importlib.util.find_spec("fastvi._cuda") is not None else ["cpu"]
