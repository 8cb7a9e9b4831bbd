"""Which part of the package may use which: what is imported, and what is included, goes one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PUBLIC = "__init__"
"""The part that fastvi/__init__.py is: ``from fastvi import kl_normal`` uses it."""

PYTHON = {
    # What several parts share; it uses none of them.
    "_names": "",
    "_sizes": "",
    "_running": "_sizes",
    "_pareto": "",
    "_perceptron": "",
    "_examples": "",
    "_array_files": "",
    "_archive": "",
    "_extras": "",
    "_files": "",
    "reference": "",
    "seeding": "_sizes",
    "_options": "_sizes",
    "_estimators": "_sizes",
    "_registry": "_options",
    # The operations.
    "_kernels": "",
    "_processor": "",
    "_native": "_kernels _processor",
    "ops": "_native _names _sizes _running _perceptron reference",
    "_array_products": "_native _sizes _perceptron",
    "_array_arguments": "_array_products",
    # What is made of operations.
    "numpy": "ops _array_arguments",
    "distributions": "ops",
    "nn": "ops",
    "expfam": "ops seeding _registry _extras",
    "em": "expfam _extras _estimators",
    "coding": "ops seeding _options",
    "mcmc": "distributions seeding _archive _files _options _extras",
    "pyro": "distributions _extras",
    PUBLIC: "numpy pyro nn em coding mcmc",
    "_labels": "ops",
    "objectives": f"{PUBLIC} _labels _examples _options _registry seeding",
    "mean_field": "expfam objectives _pareto _estimators",
    "models": "objectives",
    "autoencoders": "models",
    # The program.
    "data": "models autoencoders _array_files _extras",
    "evaluate": "models autoencoders _pareto",
    "training": "data evaluate",
    "semi_supervised": "training",
    "_terminal": "_native",
    "benchmarks": "training _terminal",
    "commands": "benchmarks",
    "cli": "commands",
    "__main__": "cli",
}
"""Each part of python/fastvi with the parts it stands on: it may use these, what they stand on, and itself."""

CPP = {
    "formulas": "",
    "kernels.h": "formulas",
    "mixture.h": "",
    "operations.h": "kernels.h",
    "operation_tables.h": "operations.h",
    "cpu": "operation_tables.h mixture.h",
    "cuda": "operation_tables.h mixture.h",
    "operands": "operation_tables.h",
    "bindings": "cpu cuda operands",
}
"""The same for csrc, whose parts are folders and the headers beside them."""


def below(stands_on: dict[str, str]) -> dict[str, set[str]]:
    """For each part all that it may use; raises CycleError where there is no order."""
    direct = {part: names.split() for part, names in stands_on.items()}
    reached: dict[str, set[str]] = {}
    for part in TopologicalSorter(direct).static_order():
        reached[part] = {part}.union(*(reached[name] for name in direct[part]))
    return reached


def part_of(file: Path, root: Path) -> str:
    """The folder right below the root that a Python file lies in, or its own name."""
    return file.relative_to(root).parts[0].partition(".")[0]


def imported_parts(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """The parts that a file's import statements name, wherever they stand: in functions and for type checkers, too."""
    package = ["fastvi", *file.relative_to(root).parent.parts]
    parts = {part_of(path, root) for path in root.iterdir()} | set(PYTHON)
    for node in ast.walk(ast.parse(file.read_text())):
        modules: list[list[str]] = []
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            modules = [[*base, alias.name] for alias in node.names]
        for module in modules:
            if module[0] == "fastvi":
                yield node.lineno, module[1] if len(module) > 1 and module[1] in parts else PUBLIC


def wrong_imports(root: Path) -> list[str]:
    """What in a folder such as python/fastvi is against `PYTHON`, a line each."""
    allowed, wrong = below(PYTHON), []
    for file in sorted(file for file in root.rglob("*.py*") if file.suffix in (".py", ".pyi")):
        part, name = part_of(file, root), file.relative_to(root)
        if part not in allowed:
            wrong.append(f"{name}: {part} has no place in the order")
            continue
        used = sorted(imported_parts(file, root))
        wrong += [f"{name}:{line}: {part} uses {other}" for line, other in used if other not in allowed[part]]
    return wrong


INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def wrong_includes(root: Path) -> list[str]:
    """What in a folder such as csrc is against `CPP`, a line each."""
    allowed, wrong, root = below(CPP), [], root.resolve()
    for file in sorted(file for file in root.rglob("*") if file.suffix in (".h", ".cpp", ".cuh", ".cu")):
        part, name = file.relative_to(root).parts[0], file.relative_to(root)
        if part not in allowed:
            wrong.append(f"{name}: {part} has no place in the order")
            continue
        for header in INCLUDE.findall(file.read_text()):
            places = [(folder / header).resolve() for folder in (file.parent, root)]
            found = [place for place in places if place.is_file() and place.is_relative_to(root)]
            # A header from elsewhere belongs to nobody here: the stand-in for CUDA is one.
            if found and (other := found[0].relative_to(root).parts[0]) not in allowed[part]:
                wrong.append(f"{name}: {part} includes {other}")
    return wrong


def test_python_imports_go_one_way() -> None:
    assert wrong_imports(ROOT / "python" / "fastvi") == []


def test_includes_go_one_way() -> None:
    assert wrong_includes(ROOT / "csrc") == []


# The walk itself, on a small tree


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


RIGHT_PYTHON = {
    "__init__.py": "from fastvi.ops import kl_normal\n",
    "_native.py": "import torch\n",
    "ops/__init__.py": "from .normal import kl_normal\nfrom . import normal\n",
    "ops/normal.py": "from fastvi import _native, reference\nimport fastvi.ops\n",
    "reference.py": "import fastvi_of_others\nfrom numpy import training\n",
    "models/vae.py": "from .. import ops, kl_normal\nfrom ..objectives import ELBO\nimport fastvi\n",
    "objectives/__init__.py": "",
    "training/__init__.py": "from fastvi.models import vae\n",
}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("models/vae.py", "from fastvi.training import files", "models uses training"),
        ("models/vae.py", "from fastvi import training", "models uses training"),
        ("models/vae.py", "from .. import training", "models uses training"),
        ("models/vae.py", "from ..training.config import RunFolder", "models uses training"),
        ("models/vae.py", "import math, fastvi.training.config as config", "models uses training"),
        ("models/vae.py", "if TYPE_CHECKING:\n    from fastvi.cli import app", "models uses cli"),
        ("models/vae.py", "def later():\n    from fastvi import cli", "models uses cli"),
        ("ops/normal.py", "from fastvi import kl_normal", "ops uses __init__"),
        ("ops/normal.py", "import fastvi", "ops uses __init__"),
        ("_kernels.pyi", "from fastvi._native import NATIVE", "_kernels uses _native"),
        ("mcmc/hmc.py", "from fastvi.coding import ista", "mcmc uses coding"),
        ("em/mixture.py", "from fastvi.expfam import normal\nfrom fastvi import mean_field", "em uses mean_field"),
        ("surprise.py", "import math", "surprise has no place in the order"),
        ("ops/normal.py", "from fastvi import surprise", "ops uses surprise"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, name: str, line: str, message: str) -> None:
    root = plant(tmp_path / "fastvi", RIGHT_PYTHON)
    assert wrong_imports(root) == []
    if "surprise" in message and name != "surprise.py":
        plant(root, {"surprise.py": ""})
    plant(root, {name: RIGHT_PYTHON.get(name, "") + line + "\n"})
    assert any(wrong.startswith(name) and wrong.endswith(message) for wrong in wrong_imports(root))


RIGHT_CPP = {
    "formulas/exp.h": "#include <cmath>\n",
    "kernels.h": '#include "formulas/exp.h"\n',
    "cpu/rows.h": '#include "../kernels.h"\n#include "elsewhere.h"\n',
    "cuda/rows.cu": '#include "../formulas/exp.h"\n',
    "operands/plan.h": '#include "../kernels.h"\n',
    "bindings/module.h": '#include "../operands/plan.h"\n#include "../cpu/rows.h"\n',
}


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("cpu/rows.h", "../operands/plan.h", "cpu includes operands"),
        ("cpu/rows.h", "operands/plan.h", "cpu includes operands"),
        ("cuda/rows.cu", "../bindings/module.h", "cuda includes bindings"),
        ("cuda/rows.cu", "../cpu/rows.h", "cuda includes cpu"),
        ("operands/plan.h", "../cpu/rows.h", "operands includes cpu"),
        ("formulas/exp.h", "../kernels.h", "formulas includes kernels.h"),
        ("surprise/new.h", "../kernels.h", "surprise has no place in the order"),
    ],
)
def test_a_wrong_include_is_found(tmp_path: Path, name: str, header: str, message: str) -> None:
    root = plant(tmp_path / "csrc", RIGHT_CPP)
    assert wrong_includes(root) == []
    plant(root, {name: RIGHT_CPP.get(name, "") + f'#  include "{header}"  // why\n'})
    assert [wrong for wrong in wrong_includes(root) if wrong.endswith(message)] == [f"{name}: {message}"]
