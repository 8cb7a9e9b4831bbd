"""The names of the public operations, which :mod:`fastvi.ops` lists, for those who do without the PyTorch it needs."""

from __future__ import annotations

import functools
import importlib


def operation_names() -> tuple[str, ...]:
    """Every name that ``fastvi/ops/__init__.py`` imports from the module of a family."""
    names = _names_in_text()
    if names is not None:
        return names
    ops = importlib.import_module("fastvi.ops")  # a program that was packed without the sources
    return tuple(sorted(name for name, value in vars(ops).items() if _is_of_family(value)))


@functools.cache
def _names_in_text() -> tuple[str, ...] | None:
    """The names, without an import of PyTorch; None where the text is not there."""
    import ast  # here, because `import fastvi` does without
    from importlib.util import find_spec

    spec = find_spec("fastvi.ops")
    text = None if spec is None else getattr(spec.loader, "get_source", lambda name: None)("fastvi.ops")
    if text is None:
        return None
    imports = [line for line in ast.parse(text).body if isinstance(line, ast.ImportFrom)]
    families = [line for line in imports if line.module is not None and line.module.startswith("fastvi.ops.")]
    return tuple(sorted(name.name for family in families for name in family.names))


def _is_of_family(value: object) -> bool:
    return getattr(value, "__module__", "").startswith("fastvi.ops.")
