"""Run the benchmarks of the family `normal`; same options as `fastvi bench`."""

from fastvi.benchmarks import main

if __name__ == "__main__":
    main("normal")
