"""The names of the public operations, which :mod:`fastvi.ops` lists, for those who do without the PyTorch it needs."""

from __future__ import annotations

import functools


@functools.cache
def operation_names() -> tuple[str, ...]:
    """Every name that ``fastvi/ops/__init__.py`` imports from the module of a family, read from its text."""
    import ast  # here, because `import fastvi` does without
    from pathlib import Path

    text = (Path(__file__).parent / "ops" / "__init__.py").read_text(encoding="utf-8")
    imports = [line for line in ast.parse(text).body if isinstance(line, ast.ImportFrom)]
    families = [line for line in imports if line.module is not None and line.module.startswith("fastvi.ops.")]
    return tuple(sorted(name.name for family in families for name in family.names))
