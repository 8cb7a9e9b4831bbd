"""Mistakes planted in fastvi's CUDA kernels: the C++ tests see each of them, on the stand-in for a GPU.

``tests/cuda_on_host`` has kernels of its own to show what the stand-in catches; this shows that fastvi's tests reach
the places where it matters. A bug is a change of the source, compiled beside the test of one family of kernels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = Path("csrc/cuda")
STAND_IN = Path("tests/cuda_on_host")
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
FLAGS = ("-std=c++20", "-O1", "-fno-math-errno", "-fopenmp", "-Wno-unknown-pragmas", f"-I{ROOT / STAND_IN}")
ADDRESSES = ("-fsanitize=address",)
# Which sources have the kernels of a family of tests.
SOURCES = {
    "bernoulli": ("row_operations.cu",),
    "bernoulli_head": ("bernoulli.cu",),
    "log_mean_exp": ("log_mean_exp.cu",),
    "layer": ("layer.cu", "sum.cu"),
    "leapfrog": ("map_operations.cu", "row_operations.cu"),
}

Flags = tuple[str, ...]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")]


@dataclass(frozen=True)
class Bug:
    """Text of a source that is replaced, the family whose test runs it, and what that test then says.

    ``order`` is one in which the threads of a block show it; ``flags`` are those that it takes to see it.
    """

    name: str
    file: str
    right: str
    wrong: str
    family: str
    message: str = "FAILED"
    order: str = "forward"
    flags: Flags = ()

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


BUGS = [
    Bug(
        "no barrier before the sums of other warps are read",
        "reduce.cuh",
        "      __syncthreads();\n      T total",
        "      T total",
        "bernoulli_head",
    ),
    Bug(
        "no barrier before the next row's sums are written",
        "reduce.cuh",
        "      __syncthreads();  // the next row's sums come into the same memory\n",
        "",
        "bernoulli_head",
        order="reverse",
    ),
    Bug(
        "no barrier before slices are joined",
        "axis.cuh",
        "    *own = value;\n    __syncthreads();\n",
        "    *own = value;\n",
        "log_mean_exp",
    ),
    Bug(
        "no barrier between the halvings",
        "axis.cuh",
        "own[half]);\n      __syncthreads();\n",
        "own[half]);\n",
        "log_mean_exp",
    ),
    Bug(
        "no barrier before the next values are written",
        "axis.cuh",
        "    __syncthreads();  // the next values come into the same memory\n",
        "",
        "log_mean_exp",
    ),
    Bug(
        "a lane missing in the mask of the shuffles",
        "reduce.cuh",
        "whole_warp = 0xFFFFFFFFu",
        "whole_warp = 0x7FFFFFFFu",
        "bernoulli_head",
        "the mask does not name the lane",
    ),
    Bug(
        "a shuffle too few",
        "reduce.cuh",
        "distance > 0; distance /= 2",
        "distance > 1; distance /= 2",
        "bernoulli_head",
    ),
    Bug(
        "vectors at odd offsets",
        "columns.cuh",
        "% alignof(Vector<S, count>) == 0",
        "% alignof(S) == 0",
        "bernoulli_head",
        "an access of 16 bytes",
    ),
    Bug(
        "a vector beyond the end of a row",
        "columns.cuh",
        "all_aligned ? count / width : 0",
        "all_aligned ? (count + width - 1) / width : 0",
        "bernoulli_head",
        "heap-buffer-overflow",
        flags=ADDRESSES,
    ),
    Bug(
        "a chunk that ends one sample early",
        "rows.cuh",
        "(end < extent.samples ? end : extent.samples)",
        "(end < extent.samples ? end - 1 : extent.samples)",
        "bernoulli",
    ),
    Bug(
        "a part that goes on beyond its row",
        "rows.cuh",
        "rest < parts.length ? rest : parts.length",
        "parts.length",
        "bernoulli_head",
    ),
    Bug(
        "a map's piece that ends one column early",
        "rows.cuh",
        "rest < length ? rest : length",
        "rest < length ? rest - 1 : length",
        "leapfrog",
    ),
    Bug(
        "the bias of a row's first piece in all of its pieces",
        "layer.cu",
        "bias + piece.first",
        "bias",
        "layer",
    ),
    Bug(
        "the scale of another row",
        "layer.cu",
        "scale[piece.row]",
        "scale[0]",
        "layer",
    ),
    Bug(
        "a layer's slope in place of its value",
        "layer.cu",
        "return {by * read[0] * read[2], by * read[1]};",
        "return {by * read[0] * read[2], by * read[2]};",
        "layer",
    ),
    Bug(
        "a grid's stride off by one",
        "reduce.cuh",
        "return std::int64_t{gridDim.x} * per_block;",
        "return std::int64_t{gridDim.x} * per_block + 1;",
        "bernoulli_head",
    ),
]


def build(*arguments: str | Path) -> None:
    finished = subprocess.run([COMPILER, *FLAGS, *arguments], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Flags], list[Path]]:
    """What no bug changes, for each family of tests and their flags: the test, the stand-in and the launches."""
    folder = tmp_path_factory.mktemp("objects")
    made: dict[tuple[str, Flags], list[Path]] = {}
    for family, flags in sorted({(bug.family, bug.flags) for bug in BUGS}):
        sources = [STAND_IN / f"{name}.cpp" for name in ("cuda_on_host", "fiber", "allocate")]
        sources += [Path(f"tests/native/test_{family}.cpp"), KERNELS / "launch.cu"]
        made[family, flags] = [folder / f"{source.stem}{''.join(flags)}.o" for source in sources]
        for source, target in zip(sources, made[family, flags], strict=True):
            if not target.exists():
                build(*flags, "-x", "c++", "-c", ROOT / source, "-o", target)
    return made


def program(folder: Path, family: str, flags: Flags, objects: dict[tuple[str, Flags], list[Path]]) -> Path:
    """The test of one family of the kernels below ``folder``."""
    kernels = [folder / f"{family}_{source}.o" for source in SOURCES[family]]
    for source, target in zip(SOURCES[family], kernels, strict=True):
        build(*flags, "-x", "c++", "-c", folder / KERNELS / source, "-o", target)
    build(*flags, *kernels, *objects[family, flags], "-o", folder / "test")
    return folder / "test"


def output_until(text: str, test: Path, order: str) -> str:
    """What the test says in that order of threads, up to the line that has ``text``."""
    environment = {**os.environ, "FASTVI_CUDA_ON_HOST_ORDER": order}
    said = []
    with subprocess.Popen(
        [test], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(line)
            if text in line:
                running.kill()
                break
    return "".join(said)


@pytest.mark.parametrize("family", sorted({bug.family for bug in BUGS}))
def test_without_a_bug_the_test_passes(family, objects, tmp_path):
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    test = program(tmp_path, family, (), objects)
    for order in sorted({bug.order for bug in BUGS if bug.family == family}):
        assert output_until("FAILED", test, order) == f"{family}: passed\n"


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_planted_bug_is_seen(bug, objects, tmp_path):
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    source = tmp_path / KERNELS / bug.file
    text = source.read_text()
    assert bug.right in text, "the source has changed: plant the bug anew"
    source.write_text(text.replace(bug.right, bug.wrong))
    test = program(tmp_path, bug.family, bug.flags, objects)
    assert bug.message in output_until(bug.message, test, bug.order)
