"""What the CUDA kernels take of a device, by the compiler alone: registers, spills, shared memory, occupancy.

``python tests/cuda/budget.py`` prints them in Markdown. Needs nvcc and c++filt, but no GPU. With the path of the module
that is built for the host (tests/cuda_on_host) it also prints what each operation moves and launches.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
NVCC = shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr")
H100_COPY = 3.0e12  # bytes a second that a copy reads and writes
STORAGES = {"float": "float32", "BFloat16": "bfloat16", "Float16": "float16", "double": "float64"}


@dataclass(frozen=True)
class Device:
    """What a multiprocessor has (CUDA Programming Guide, "Compute Capabilities"); memory in bytes."""

    shared_memory: int
    registers: int = 65536
    partitions: int = 4  # a warp's registers lie in one of them
    warps: int = 64
    blocks: int = 32
    register_unit: int = 256  # of a warp
    shared_unit: int = 128  # of a block
    shared_reserved: int = 1024  # of a block


DEVICES = {80: Device(shared_memory=164 * 1024), 90: Device(shared_memory=228 * 1024)}


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel, compiled for one architecture; memory in bytes."""

    name: str
    arguments: str  # of the template, without namespaces
    architecture: int
    threads: int  # of a block
    registers: int  # of a thread
    stack: int
    spilled: int
    shared: int
    ptx: str

    @property
    def storage(self) -> str:
        """The type that its numbers are stored in: the first floating-point type among the arguments."""
        found = re.search(rf"\b({'|'.join(STORAGES)})\b", self.arguments)
        return STORAGES[found[1]] if found else ""

    @property
    def occupancy(self) -> float:
        """Which part of a multiprocessor's warps can be there at once."""
        device = DEVICES[self.architecture]
        warps = _ceil_divide(self.threads, 32)
        warp_registers = _round_up(32 * self.registers, device.register_unit)
        register_warps = device.registers // device.partitions // warp_registers * device.partitions
        shared = _round_up(self.shared, device.shared_unit) + device.shared_reserved
        blocks = min(device.blocks, device.warps // warps, register_warps // warps, device.shared_memory // shared)
        return blocks * warps / device.warps

    @property
    def uses_float64(self) -> bool:
        """Whether it has an instruction in double precision."""
        return ".f64" in self.ptx

    @property
    def has_vector_accesses(self) -> bool:
        """Whether it reads or writes global memory by 16 bytes."""
        return re.search(r"(ld|st)\.global[.\w]*\.v(4\.\w32|2\.\w64)\b", self.ptx) is not None

    def __str__(self) -> str:
        """Name and arguments, for messages."""
        return f"{self.name}<{self.arguments}>, sm_{self.architecture}"


def compile_kernels(sources: Iterable[Path], architectures: Sequence[int] = tuple(DEVICES)) -> list[Kernel]:
    """All kernels of the sources; those that several sources have are there once."""
    tasks = [(source, architecture) for source in sources for architecture in architectures]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        compiled = threads.map(lambda task: _compile(*task), tasks)
        found = {(kernel.name, kernel.arguments, kernel.architecture): kernel for part in compiled for kernel in part}
    return [found[key] for key in sorted(found)]


def _compile(source: Path, architecture: int) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        ptx_file, binary = Path(folder) / "kernels.ptx", Path(folder) / "kernels.cubin"
        _run(NVCC, *FLAGS, "-ptx", f"-arch=compute_{architecture}", source, "-o", ptx_file)
        usage = _run(NVCC, "-cubin", f"-arch=sm_{architecture}", "-Xptxas=-v", ptx_file, "-o", binary)
        ptx = ptx_file.read_text()
    entries = re.split(r"^(?=(?:\.\w+ )*\.entry )", ptx, flags=re.MULTILINE)[1:]
    symbols = [re.search(r"\.entry (\w+)", entry)[1] for entry in entries]
    names = _run("c++filt", *symbols).splitlines() if symbols else []
    return [
        _kernel(name, architecture, entry, re.search(rf"entry function '{symbol}'.*?Compile time", usage, re.DOTALL)[0])
        for name, symbol, entry in zip(names, symbols, entries, strict=True)
    ]


def _kernel(demangled: str, architecture: int, ptx: str, usage: str) -> Kernel:
    def number(pattern: str, text: str = usage) -> int:
        return sum(int(found) for found in re.findall(pattern, text))

    plain = re.sub(r"\(anonymous namespace\)::|\w+::|\b(\d+)u?l\b", r"\1", demangled).removeprefix("void ")
    name = re.match(r"\w+", plain)[0]
    return Kernel(
        name,
        _template_arguments(plain[len(name) :]),
        architecture,
        threads=number(r"\.maxntid (\d+)", ptx) or 1024,
        registers=number(r"Used (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame"),
        spilled=number(r"(\d+) bytes spill"),
        shared=number(r"(\d+) bytes smem"),
        ptx=ptx,
    )


def _template_arguments(text: str) -> str:
    """What stands between the first bracket and its counterpart."""
    if not text.startswith("<"):
        return ""
    depth = 0
    for position, character in enumerate(text):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if depth == 0:
            return text[1:position].replace("> >", ">>").replace("> >", ">>")
    raise ValueError(f"brackets do not match in {text!r}")


def _run(*command: str | Path | None) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"{command}:\n{finished.stderr}")
    return finished.stdout + finished.stderr


def _ceil_divide(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _round_up(number: int, unit: int) -> int:
    return _ceil_divide(number, unit) * unit


def kernel_table(kernels: Iterable[Kernel]) -> str:
    """A row for each kernel: registers and the least occupancy for each storage, over instances and architectures."""
    storages = list(STORAGES.values())
    rows = [["kernel", "instances", "shared bytes", *storages], ["---"] * (3 + len(storages))]
    for name, group in itertools.groupby(kernels, key=lambda kernel: kernel.name):
        instances = list(group)
        cells = []
        for storage in storages:
            of_storage = [kernel for kernel in instances if kernel.storage in (storage, "")]
            if not of_storage:  # layers are computed in float32 and float64 alone
                cells.append("-")
                continue
            least = min(kernel.occupancy for kernel in of_storage)
            cells.append(f"{_range([kernel.registers for kernel in of_storage])}, {least:.0%}")
        count = len({kernel.arguments for kernel in instances})
        rows.append([f"`{name}`", str(count), _range([kernel.shared for kernel in instances]), *cells])
    return _markdown(rows)


def operation_table(module_for_host: Path) -> str:
    """A row for each benchmark of an operation without matrix products: the memory it has to move, and its launches.

    The time is that of a copy of as many bytes on an H100. One of PyTorch's operators counts as one launch, though some
    take several.
    """
    from fastvi.benchmarks import FAMILIES
    from fastvi.benchmarks.harness import load_cases
    from fastvi.benchmarks.results import EAGER, FASTVI

    count = _launch_counter(module_for_host)
    head = ["operation", "mode", "bytes an element", "H100, us", "launches: eager", "launches: fastvi"]
    rows = [head, ["---"] * len(head)]
    for case in itertools.chain.from_iterable(load_cases(family) for family in FAMILIES if family != "step"):
        if case.name.startswith(("linear_", "mlp")):
            continue  # bound by its matrix products
        elements = math.prod(int(size) for size in re.search(r"\d+(x\d+)*", case.name)[0].split("x"))
        for mode in case.modes:
            workload = case.prepare(mode, False)
            moved = workload.bytes_moved
            figures = [f"{moved / elements:.1f}", f"{1e6 * moved / H100_COPY:.2g}"]
            launches = [str(count(workload.calls[provider])) for provider in (EAGER, FASTVI)]
            rows.append([f"`{case.name}`", mode, *figures, *launches])
    return _markdown(rows)


def _launch_counter(module_for_host: Path) -> Callable[[Callable[[], object]], int]:
    """Make the function that counts what a call launches: PyTorch's operators, and kernels of the module."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support.other_kernels import use_kernels_of

    own_launches = ctypes.CDLL(use_kernels_of(module_for_host.resolve()).__file__).cuda_on_host_launches
    own_launches.restype = ctypes.c_uint64

    class CountOperators(TorchDispatchMode):
        launches = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            name = function._schema.name
            computes = name.startswith("aten::") and not re.search("empty|view|same", name)
            self.launches += computes and not function.is_view
            return function(*arguments, **(options or {}))

    def count(call: Callable[[], object]) -> int:
        before = own_launches()
        with CountOperators() as operators:
            call()
        return operators.launches + own_launches() - before

    return count


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least}-{most}"


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(kernel_table(compile_kernels(sorted(SOURCES.glob("*.cu")))))
    for path in sys.argv[1:]:
        print()
        print(operation_table(Path(path)))
