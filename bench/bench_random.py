"""Run the benchmarks of the family `random`; same options as `fastvi bench`."""

from fastvi.benchmarks import main

if __name__ == "__main__":
    main("random")
