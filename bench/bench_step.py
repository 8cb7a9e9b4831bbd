"""Run the benchmarks of the family `step`; same options as `fastvi bench`."""

from fastvi.benchmarks import main

if __name__ == "__main__":
    main("step")
