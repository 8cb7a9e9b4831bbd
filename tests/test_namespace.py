"""What the documentation names is reached from ``import fastvi`` alone, and costs nothing until then."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def named_modules() -> list[str]:
    """Every ``fastvi.NAME`` and ``fastvi.NAME.member`` in the documentation whose NAME is a module of the package."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"\bfastvi\.([a-z_]+)\b", page.read_text(encoding="utf-8"))}
    package = ROOT / "python" / "fastvi"
    return sorted(name for name in named if (package / f"{name}.py").exists() or (package / name).is_dir())


def test_the_documentation_names_modules() -> None:
    assert {"data", "evaluate", "objectives", "seeding", "training"} <= set(named_modules())


@pytest.mark.parametrize("name", named_modules())
def test_modules_are_reached_by_their_names(name: str, run_python: Callable[..., str]) -> None:
    code = f"""
import fastvi, sys
print({name!r} in dir(fastvi), "torch" in sys.modules, fastvi.{name}.__name__)
"""
    assert run_python(code).split() == ["True", "False", f"fastvi.{name}"]


def test_the_seeds_of_the_documentation(run_python: Callable[..., str]) -> None:
    """docs/random.md: ``fastvi.seeding.mix_seed(seed, step)``; `evaluate` is a module with a function of that name."""
    code = """
import fastvi
print(fastvi.seeding.mix_seed(7, 1) != fastvi.seeding.mix_seed(7, 2))
from fastvi.evaluate import evaluate
print(fastvi.evaluate.evaluate is evaluate, fastvi.objectives.IWAE(5).num_samples)
"""
    assert run_python(code).split() == ["True", "True", "5"]


def test_operations_are_listed_once(run_python: Callable[..., str]) -> None:
    """Every family's module is in the list, and a name of it is the same object in every way to reach it."""
    code = """
import fastvi, sys
print(set(fastvi.__all__) <= set(dir(fastvi)), "torch" in sys.modules)
from fastvi import *
from fastvi import kl_normal, ops
print(*sorted({value.__module__ for value in map(vars(ops).get, ops.__all__)}))
print(fastvi.kl_normal is kl_normal is ops.kl_normal, fastvi.log_mean_exp is log_mean_exp is ops.log_mean_exp)
print(sorted(set(fastvi.__all__) - set(ops.__all__)), set(ops.__all__) - set(fastvi.__all__))
"""
    first, modules, *others = run_python(code).splitlines()
    families = [path.stem for path in (ROOT / "python/fastvi/ops").glob("*.py") if not path.stem.startswith("_")]
    assert modules.split() == sorted(f"fastvi.ops.{family}" for family in families)
    own = ["__version__", "fit", "from_pretrained", "fuse", "load", "unfuse"]
    assert [first, *others] == ["True False", "True True", f"{own} set()"]


def test_names_without_the_sources(run_python: Callable[..., str]) -> None:
    """A program that was packed as bytecode has no text in which the names could be read."""
    code = """
import importlib.machinery
from fastvi import _names
names = _names.operation_names()
_names._names_in_text.cache_clear()
importlib.machinery.SourceFileLoader.get_source = lambda self, name: None
import fastvi.numpy, sys
print("torch" in sys.modules)
others = {"__version__", "fit", "from_pretrained", "fuse", "load", "unfuse"}
print("kl_normal" in names, _names.operation_names() == names, set(fastvi.__all__) == {*names, *others})
print(fastvi.kl_normal.__name__, fastvi.ops.__all__ == list(names))
"""
    assert run_python(code).split() == ["False", "True", "True", "True", "kl_normal", "True"]


def test_there_are_no_other_names(run_python: Callable[..., str]) -> None:
    code = """
import fastvi
try:
    fastvi.seedings
except AttributeError as error:
    print(error)
"""
    assert run_python(code).strip() == "module 'fastvi' has no attribute 'seedings'"


def test_pyro_is_imported_when_it_is_used_and_named_where_it_is_not_there(run_python: Callable[..., str]) -> None:
    code = """
import sys
sys.modules["pyro"] = None  # as if it were not installed
import fastvi.pyro
print(*dir(fastvi.pyro))
try:
    fastvi.pyro.DiagNormal
except ImportError as error:
    print(error)
"""
    names, message = run_python(code).splitlines()
    assert names == "BernoulliLogits DiagLaplace DiagNormal LinearBernoulli"
    assert message == 'fastvi.pyro.DiagNormal needs Pyro, which is not installed: pip install "fastvi[pyro]"'
