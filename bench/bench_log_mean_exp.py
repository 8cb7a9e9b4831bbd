"""Run the benchmarks of the family `log_mean_exp`; same options as `fastvi bench`."""

from fastvi.benchmarks import main

if __name__ == "__main__":
    main("log_mean_exp")
