"""Arrays in idx, npz and npy files; a damaged file of any kind is a `DataError` that names it.

Every size that a file declares is held against what the file can hold before any memory is asked for.
"""

from __future__ import annotations

import ast
import gzip
import io
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

MAX_ARRAY_BYTES = 2**30
"""Largest array that is read: no image data set that is published as one file of bytes has more."""
_DEFLATE_RATIO = 1032
"""Deflate, in gz and npz files, turns one byte into at most so many (zlib's technical details)."""
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1 | 0x40
"""Bits of a zip member's flags: a password, or the strong encryption that came later."""
# What zipfile raises for a damaged archive: BadZipFile for most, a checksum that differs among them; zlib.error
# for bad blocks; EOFError for too few; NotImplementedError for a version or a flag that it does not know;
# struct.error for fields that are cut short; OSError and ValueError for places before the beginning of the file
# and for names that are not UTF-8; OverflowError for places beyond the largest file there can be.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    struct.error,
    OSError,
    ValueError,
    OverflowError,
)
_NPY_MAGIC = b"\x93NUMPY"
_NPY_LENGTH_FORMATS = {1: "<H", 2: "<I", 3: "<I"}
"""How each version of the npy format writes the length of its header."""
_NPY_MAX_HEADER = 10_000
"""NumPy's own bound on the header that it parses; that of a plain array has about a hundred bytes."""
NPY_MAX_START = _NPY_MAX_HEADER + 12
"""No array's data begin later than this in an npy file."""
_PLAIN_DTYPES = r"[<>|=]?(b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,5})"
_NAMES_SHOWN = 5


class DataError(Exception):
    """A data set is unknown, missing or damaged; the message says which file, and what was expected."""

    __module__ = "fastvi.data"  # where it is public


def read_idx(path: Path | str) -> Bytes:
    """Read an idx file of bytes, gzip-compressed or not, into an array of its own shape.

    The reader is ours because a torchvision wheel is bound to one torch build, a heavy price for sixteen bytes of
    header.

    Raises
    ------
    DataError
        If the file cannot be read, is not an idx file of unsigned bytes, is cut short, or has bytes left over.

    References
    ----------
    LeCun, Cortes & Burges, "The MNIST database of handwritten digits": the idx format.
    """
    path = Path(path)
    content = _read_file(path)
    if path.suffix == ".gz":
        capacity = _DEFLATE_RATIO * len(content)
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            try:
                return _parse_idx(path, file, capacity)
            except (OSError, EOFError, zlib.error) as error:  # bad header or checksum, cut short, bad blocks
                raise DataError(f"{path}: cannot be decompressed ({error})") from error
    return _parse_idx(path, io.BytesIO(content), len(content))


def read_npz(path: Path, key: str) -> Bytes:
    """Read one array of bytes from an npz archive, as ``numpy.savez`` and ``savez_compressed`` write them.

    ``numpy.load`` parses an array's header before the archive's checksum is compared, so that damaged bytes end in
    whatever error they happen to lead to. Here the checksum comes first, and the header is read as a literal.

    Raises
    ------
    DataError
        If the file cannot be read, is not such an archive, is damaged, or has no array of bytes under ``key``.
    """
    member = _read_zip_member(path, _read_file(path), key)
    layout = npy_layout(path, key, member, len(member), "bytes (uint8)")
    if layout.dtype.lstrip("|<>=") != "u1":
        raise DataError(f"{path}: {key} must hold bytes (uint8), got {_dtype_name(layout.dtype)}")
    array: Bytes = _from_member(path, key, member, layout)
    return array


def read_npz_numbers(path: Path, key: str) -> npt.NDArray[Any]:
    """Read one array of numbers, truth values or words from an npz archive, as `read_npz` reads bytes.

    Raises
    ------
    DataError
        See `read_npz`; and if the array holds complex numbers, records or Python objects.
    """
    member = _read_zip_member(path, _read_file(path), key)
    layout = npy_layout(path, key, member, len(member))
    check_plain(path, key, layout)
    return _from_member(path, key, member, layout)


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in an npz archive, in their order.

    Raises
    ------
    DataError
        If the file cannot be read, or is not such an archive.
    """
    content = _read_file(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [info.filename.removesuffix(".npy") for info in archive.infolist()]
    except _ZIP_ERRORS as error:
        raise _no_archive(path, error) from error


class NpyLayout(NamedTuple):
    """What the header of an array in NumPy's npy format says, and where its data begin, in bytes."""

    dtype: str
    fortran_order: bool
    shape: tuple[int, ...]
    start: int


def npy_layout(path: Path, key: str, head: bytes, size: int, wanted: str = "numbers") -> NpyLayout:
    """Return what a header says: ``head`` are the first bytes of ``size`` in all, `NPY_MAX_START` of them or all.

    Raises
    ------
    DataError
        If it is not such a header, or a damaged one; it names ``key``, the array, ``path``, and what was ``wanted``.
    """
    if head[:6] != _NPY_MAGIC or len(head) < 8 or head[6] not in _NPY_LENGTH_FORMATS:
        raise DataError(f"{path}: {key} is not an array in NumPy's npy format")
    length_format = _NPY_LENGTH_FORMATS[head[6]]
    start = 8 + struct.calcsize(length_format)
    if len(head) < start:
        raise DataError(f"{path}: the header of {key} is cut short")
    (length,) = struct.unpack_from(length_format, head, 8)
    if length > min(_NPY_MAX_HEADER, size - start):
        raise DataError(f"{path}: {key} declares a header of {length} bytes, expected about a hundred")
    return NpyLayout(*_parse_npy_header(path, key, head[start : start + length], wanted), start + length)


def check_plain(path: Path, key: str, layout: NpyLayout) -> None:
    """Check that an array holds numbers, truth values or words.

    Raises
    ------
    DataError
        If it does not; it says what it holds.
    """
    if not re.fullmatch(_PLAIN_DTYPES, layout.dtype):
        got = _dtype_name(layout.dtype)
        hint = "; words are an array of str, in which an empty one is a missing label" if "objects" in got else ""
        raise DataError(f"{path}: {key} must hold numbers (bool, integers or floating point), got {got}{hint}")


def _from_member(path: Path, key: str, member: bytes, layout: NpyLayout) -> npt.NDArray[Any]:
    data, dtype, shape = memoryview(member)[layout.start :], np.dtype(layout.dtype), layout.shape
    if math.prod(shape) * dtype.itemsize != len(data):
        raise DataError(
            f"{path}: {key} must have {math.prod(shape) * dtype.itemsize} bytes for its shape {_shown(shape)}, "
            f"got {len(data)}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if layout.fortran_order else "C")


def _read_file(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: expected a file, found a {'folder' if path.is_dir() else 'device or a pipe'}")
        if status.st_size > MAX_ARRAY_BYTES:
            raise DataError(f"{path}: expected at most {MAX_ARRAY_BYTES} bytes, the file has {status.st_size}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise DataError(f"{path}: cannot be read ({str(error)[:200]})") from error


def _parse_idx(path: Path, file: io.BytesIO | gzip.GzipFile, capacity: int) -> Bytes:
    """Read the rest of the file, which holds no more than ``capacity`` bytes."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: expected an idx file of bytes, which starts with 00 00 08, got {magic.hex(' ')}")
    rank = magic[3]
    sizes = file.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise DataError(f"{path}: expected a header of {4 + 4 * rank} bytes, the file has {4 + len(sizes)}")
    shape = struct.unpack(f">{rank}I", sizes)
    _check_rank(path, shape)
    count = math.prod(shape)
    if count > min(capacity, MAX_ARRAY_BYTES):
        raise DataError(f"{path}: expected {count} bytes of data for the shape {_shown(shape)}, the file is too small")
    content = file.read(count + 1)  # one more, so that the end is reached and a checksum is compared
    if len(content) != count:
        got = len(content) if len(content) < count else f"more than {count}"
        raise DataError(f"{path}: expected {count} bytes of data for the shape {_shown(shape)}, got {got}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_zip_member(path: Path, content: bytes, key: str) -> bytes:
    """The bytes of an archive's array, whole: with the right checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if key not in members:
                found = ", ".join([ascii(name[:40])[1:-1] for name in members][:_NAMES_SHOWN])
                raise DataError(f"{path}: expected an array named {key}, found {found or 'none'}")
            info = members[key]
            if info.compress_type not in _ZIP_METHODS or info.flag_bits & _ENCRYPTED:
                raise DataError(f"{path}: {key} is encrypted, or compressed in another way than NumPy does")
            ratio = _DEFLATE_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1
            if info.file_size > min(MAX_ARRAY_BYTES, ratio * min(info.compress_size, len(content))):
                raise DataError(f"{path}: {key} declares {info.file_size} bytes, more than the file can hold")
            return archive.read(info)
    except _ZIP_ERRORS as error:
        raise _no_archive(path, error) from error


def _no_archive(path: Path, error: Exception) -> DataError:
    words = str(error)[:200] or type(error).__name__  # it may quote a name of any length
    return DataError(f"{path}: cannot be read as an npz archive ({words})")


def _parse_npy_header(path: Path, key: str, header: bytes, wanted: str) -> tuple[str, bool, tuple[int, ...]]:
    """Data type, order and shape from a header, which is a dictionary written as a Python literal."""
    try:
        fields = ast.literal_eval(header.decode("utf-8").strip())
    # These are the errors of ast.literal_eval by its documentation; ValueError is that of the decoding, too.
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{path}: the header of {key} is damaged") from error
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise DataError(f"{path}: the header of {key} must hold descr, fortran_order and shape")
    dtype, fortran_order, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(dtype, str):
        raise DataError(f"{path}: {key} must hold {wanted}, got an array of records")
    if not isinstance(fortran_order, bool):
        raise DataError(f"{path}: the header of {key} is damaged: fortran_order is neither True nor False")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise DataError(f"{path}: the header of {key} is damaged: its shape is not a tuple of sizes")
    _check_rank(path, shape)
    return dtype, fortran_order, shape


def _check_rank(path: Path, shape: Sequence[int]) -> None:
    """Reject shapes that no NumPy array has: 32 axes are the most before NumPy 2, and sizes are 64-bit integers."""
    if len(shape) > 32 or math.prod(size for size in shape if size) >= 2**63:
        raise DataError(f"{path}: no array has the shape {_shown(shape)}")


def _dtype_name(dtype: str) -> str:
    """The name that NumPy has for a number's type; others as they are written in the file."""
    if re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248]|c(8|16))", dtype):
        return str(np.dtype(dtype))
    return "Python objects" if dtype.lstrip("|<>=").startswith("O") else ascii(dtype[:20])


def _shown(shape: Sequence[int]) -> str:
    """A shape for a message: a damaged one may have hundreds of axes."""
    return str(tuple(shape)) if len(shape) <= 8 else f"({', '.join(map(str, shape[:8]))}, ... {len(shape)} axes)"
