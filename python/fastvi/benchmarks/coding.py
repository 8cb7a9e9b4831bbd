"""Sparse codes of patches of photographs beside scikit-learn's, and the steps of ISTA and FISTA beside plain PyTorch.

The dictionary has 256 atoms of 10 x 10, learned from the same photographs; alpha is 1 for patches of variance 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.patches import Array, learned_dictionary, photograph_patches
from fastvi.benchmarks.results import COMPILE, EAGER, FASTVI, SCIKIT_LEARN
from fastvi.benchmarks.timers import Call
from fastvi.coding import fista, ista, lasso_objective, lipschitz

ALPHA = 1.0
STEPS = 20
"""Of a timed descent."""
OBJECTIVE_TOLERANCE = 1e-4
"""By which fraction of it an objective of ours may be above scikit-learn's."""
RIVALS = {"beside lasso_cd": "lasso_cd", "beside lasso_lars": "lasso_lars"}
"""The algorithms of scikit-learn's ``SparseCoder`` that minimise this objective, by the modes that time them."""


def plain_ista(x: Tensor, dictionary: Tensor, step_size: float, steps: int = STEPS) -> Tensor:
    """ISTA as one would write it, from codes of zero."""
    codes = x.new_zeros(len(x), len(dictionary))
    for _ in range(steps):
        moved = codes + step_size * (x - codes @ dictionary) @ dictionary.mT
        codes = moved.sign() * (moved.abs() - step_size * ALPHA).clamp_min(0.0)
    return codes


def plain_fista(x: Tensor, dictionary: Tensor, step_size: float, steps: int = STEPS) -> Tensor:
    """FISTA as one would write it, without restarts."""
    codes = extrapolated = x.new_zeros(len(x), len(dictionary))
    momentum = 1.0
    for _ in range(steps):
        moved = extrapolated + step_size * (x - extrapolated @ dictionary) @ dictionary.mT
        moved = moved.sign() * (moved.abs() - step_size * ALPHA).clamp_min(0.0)
        after = 0.5 * (1.0 + (1.0 + 4.0 * momentum**2) ** 0.5)
        extrapolated = moved + (momentum - 1.0) / after * (moved - codes)
        codes, momentum = moved, after
    return codes


Descent = Callable[[Tensor, Tensor, float], Tensor]


def _ours(method: Callable[..., Any], x: Tensor, dictionary: Tensor, step_size: float) -> Tensor:
    options = {"num_steps": STEPS, "step_size": step_size, "tolerance": 0.0}
    found: Tensor = method(x, dictionary, ALPHA, **options).codes
    return found


def _prepare_steps(
    plain: Descent, ours: Descent, rows: int, columns: int, atoms: int, name: str, mode: str, with_compile: bool
) -> Workload:
    dictionary = torch.nn.functional.normalize(torch.randn(atoms, columns), dim=-1)
    x = torch.randn(rows, columns)
    step_size = 1.0 / lipschitz(dictionary)
    functions = {EAGER: plain}
    if with_compile:
        functions[COMPILE] = torch.compile(plain, dynamic=False)
    functions[FASTVI] = ours

    def check() -> None:
        expected = plain(x.double(), dictionary.double(), step_size)
        for provider, function in functions.items():
            assert_same_values(f"{name}, {mode}, {provider}", function(x, dictionary, step_size), expected)

    calls: dict[str, Call] = {
        provider: partial(function, x, dictionary, step_size) for provider, function in functions.items()
    }
    return Workload(calls, check)


def steps_case(method: str, rows: int, columns: int, atoms: int) -> Case:
    """Some steps of one of the methods from codes of zero, on random rows and atoms, in float32."""
    plain = plain_ista if method == "ista" else plain_fista
    ours = partial(_ours, ista) if method == "ista" else partial(_ours, partial(fista, restart=False))
    name = f"{method} {rows}x{columns}, {atoms} atoms"
    prepare = partial(_prepare_steps, plain, ours, rows, columns, atoms, name)
    return Case("coding", name, (f"{STEPS} steps",), prepare)


def _prepare_codes(
    make: Callable[[], tuple[Array, Array]], once: bool, name: str, mode: str, with_compile: bool
) -> Workload:
    from sklearn.decomposition import SparseCoder as ScikitSparseCoder
    from threadpoolctl import ThreadpoolController

    from fastvi.coding import SparseCoder

    x, dictionary = make()
    threads = torch.get_num_threads()
    libraries = ThreadpoolController()
    theirs = ScikitSparseCoder(dictionary, transform_algorithm=RIVALS[mode], transform_alpha=ALPHA, n_jobs=threads)
    ours = SparseCoder(dictionary, alpha=ALPHA).fit(x[:1])
    found: dict[str, Array] = {}

    def encode() -> None:
        found[FASTVI] = ours.transform(x)

    def encode_theirs() -> None:
        with libraries.limit(limits=threads, user_api="blas"):
            found[SCIKIT_LEARN] = theirs.transform(x)

    calls: dict[str, Call] = {SCIKIT_LEARN: encode_theirs, FASTVI: encode}

    def check() -> None:
        for provider in calls.keys() - found.keys():
            calls[provider]()
        assert_as_low(f"{name}, {mode}", *(_objectives(x, found[provider], dictionary) for provider in calls))

    return Workload(calls, check, once=once)


def assert_as_low(label: str, theirs: Array, ours: Array) -> None:
    """Refuse objectives of ours, (N,), of which one is above theirs by more than `OBJECTIVE_TOLERANCE` of it."""
    excess = float((ours / theirs - 1.0).max())
    if not excess <= OBJECTIVE_TOLERANCE:
        raise AssertionError(
            f"{label}: an objective is above scikit-learn's by {excess:.2g} of it, allowed {OBJECTIVE_TOLERANCE:g}"
        )


def _objectives(x: Array, codes: Array, dictionary: Array) -> Array:
    found: Array = lasso_objective(x, codes, dictionary, ALPHA)
    return found


def codes_case(name: str, make: Callable[[], tuple[Array, Array]], once: bool = False) -> Case:
    """Codes of the rows (N, D) for the dictionary (A, D) that ``make`` returns; of very many of them ``once``."""
    return Case("coding", name, tuple(RIVALS), partial(_prepare_codes, make, once, name), on_request=once)


def patches_and_atoms(rows: int) -> tuple[Array, Array]:
    """Patches of 10 x 10 and 256 atoms for them."""
    return photograph_patches(rows, 10), learned_dictionary(256, 10, ALPHA)


CASES = [
    steps_case("ista", 5000, 100, 256),
    steps_case("fista", 5000, 100, 256),
    steps_case("fista", 5000, 256, 100),
    codes_case("sparse codes 2000x100, 256 atoms", partial(patches_and_atoms, 2000)),
    codes_case("sparse codes 100000x100, 256 atoms", partial(patches_and_atoms, 100_000), once=True),
]
