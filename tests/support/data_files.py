"""Files of images as their publishers write them."""

import gzip
import struct

import numpy as np


def idx_bytes(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_image_files(folder, train_count=5, test_count=3, suffix=".gz"):
    generator = np.random.default_rng(0)
    arrays = []
    for stem, count in (("train", train_count), ("t10k", test_count)):
        arrays.append(generator.integers(0, 256, (count, 4, 6), dtype=np.uint8))
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", arrays[-1])
    return arrays
