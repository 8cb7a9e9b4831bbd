"""Run the benchmarks of a family, or all: ``python bench/run.py [FAMILY] [OPTIONS]``, options of `fastvi bench`."""

import sys

from fastvi.cli import app

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--family")
    app(["bench", *arguments], prog_name="fastvi")
