"""``python -m fastvi`` is the command ``fastvi``, also where a launcher such as torchrun wants a module."""

from fastvi.cli import main

if __name__ == "__main__":
    main()
