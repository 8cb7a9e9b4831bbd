"""Print README's tables of speed: ``python bench/readme_table.py FILE``, a file of ``fastvi bench --json``."""

from __future__ import annotations

import sys
from pathlib import Path

from fastvi.benchmarks.compare import NotComparableError, Recording, read
from fastvi.benchmarks.harness import FORWARD, FORWARD_BACKWARD
from fastvi.benchmarks.results import COMPILE, EAGER, FASTVI, FASTVI_COMPILE, FLOOR, JAX

OTHERS = (EAGER, COMPILE, JAX)
OPERATION_COLUMNS = [(mode, other, FASTVI) for mode in (FORWARD, FORWARD_BACKWARD) for other in OTHERS]
STEP_COLUMNS = [
    *(("step", other, FASTVI) for other in OTHERS),
    ("step", COMPILE, FASTVI_COMPILE),
    ("step", FASTVI, FLOOR),
]
OPERATION_HEAD = ["work", *(f"{when}: {other}" for when in ("forward", "with backward") for other in OTHERS)]
STEP_HEAD = ["training step", *OTHERS, "torch.compile, both in it", "fastvi / floor"]


def tables(recording: Recording) -> str:
    """Return both tables and a line of what they were measured on; ratios below 1, losses of fastvi, are bold."""
    threads = max(key[2] for key in recording.times)
    parts = []
    for head, columns in ((OPERATION_HEAD, OPERATION_COLUMNS), (STEP_HEAD, STEP_COLUMNS)):
        modes = {column[0] for column in columns}
        cases = dict.fromkeys(key[0] for key in recording.times if key[1] in modes)
        if cases:
            rows = [[f"`{case}`", *(_cell(recording, case, threads, *column) for column in columns)] for case in cases]
            lines = [head, ["---"] * len(head), *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    machine = recording.machine
    names = ("cpu", "isa", "torch", "jax", "date")
    spread = max(times.spread for key, times in recording.times.items() if key[2] == threads)
    described = [f"{name} {machine[name]}" for name in names if name in machine]
    return "\n\n".join([*parts, ", ".join([*described, f"threads {threads}", f"largest spread {spread:.0%}"])])


def _cell(recording: Recording, case: str, threads: int, mode: str, baseline: str, provider: str) -> str:
    times = [recording.times.get((case, mode, threads, name)) for name in (baseline, provider)]
    if times[0] is None or times[1] is None:
        return ""
    ratio = f"{times[0].median / times[1].median:.2f}"
    return f"**{ratio}**" if float(ratio) < 1.0 and provider != FLOOR else ratio


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python bench/readme_table.py FILE")
    try:
        recording = read(Path(arguments[0]))
    except (OSError, NotComparableError) as error:
        sys.exit(f"Error: {error}")
    if not recording.times:
        sys.exit(f"Error: {arguments[0]}: it holds no case")
    print(tables(recording))


if __name__ == "__main__":
    main(sys.argv[1:])
