"""Damaged files: whatever happens to a file's bytes, it loads as it was written or is named in one line."""

import gzip
import io
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest

from fastvi._array_files import MAX_ARRAY_BYTES, read_idx, read_npz
from fastvi.data import DataError, load_dataset
from support.data_files import idx_bytes

IMAGES = np.random.default_rng(0).integers(0, 4, (7, 5, 3), dtype=np.uint8)
CORRUPTIONS = 500


def npz_bytes(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **(arrays or {"other": np.arange(3.0), "x": IMAGES}))
    return file.getvalue()


KINDS = {
    "images.idx": (idx_bytes(IMAGES), read_idx),
    "images.gz": (gzip.compress(idx_bytes(IMAGES)), read_idx),
    "images.npz": (npz_bytes(), lambda path: read_npz(path, "x")),
    "compressed.npz": (npz_bytes(np.savez_compressed), lambda path: read_npz(path, "x")),
}


def corrupted(content, generator):
    """One thing that happens to files: flipped bits, a cut, bytes put in, left out, or zeroed, a piece repeated."""
    data = bytearray(content)
    start = generator.randrange(len(data))
    length = 1 + generator.randrange(min(24, len(data) - start))
    match generator.randrange(7):
        case 0:
            data[start] ^= 1 << generator.randrange(8)
        case 1:
            for _ in range(generator.randrange(2, 30)):
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        case 2:
            del data[start:]
        case 3:
            data[start:start] = generator.randbytes(length)
        case 4:
            del data[start : start + length]
        case 5:
            data[start : start + length] = bytes([generator.choice([0, 255])]) * length
        case 6:
            data[start:start] = data[start : start + length]
    return bytes(data)


def assert_names(error, path):
    assert str(path) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", KINDS)
def test_corruptions(tmp_path, name):
    """A checksum guards all but plain idx, whose pixels are what its bytes are."""
    content, read = KINDS[name]
    path = tmp_path / name
    generator = random.Random(name)
    refused = 0
    for number in range(CORRUPTIONS):
        damaged = corrupted(content, generator)
        path.write_bytes(damaged)
        try:
            array = read(path)
        except DataError as error:
            refused += 1
            assert_names(error, path)
            continue
        if name == "images.idx":
            assert idx_bytes(array) == damaged, number
        else:
            np.testing.assert_array_equal(array, IMAGES, err_msg=str(number))
    assert refused > CORRUPTIONS // 4
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path), IMAGES)


def npy(header, data=b"", version=1, length=None):
    """An npy file with a header of the test's own."""
    text = header if isinstance(header, bytes) else header.encode()
    length = len(text) if length is None else length
    packed = struct.pack("<H" if version == 1 else "<I", length)
    return b"\x93NUMPY" + bytes([version, 0]) + packed + text + data


def archive(member, name="x.npy", method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as written:
        written.writestr(name, member)
    return file.getvalue()


def header(descr="'|u1'", order="False", shape="(2, 3)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


SIX = bytes(range(6))


@pytest.mark.parametrize(
    ("member", "complaint"),
    [
        (b"", "x is not an array in NumPy's npy format"),
        (b"plain text, not an array", "x is not an array in NumPy's npy format"),
        (npy(header(), SIX, version=9), "x is not an array in NumPy's npy format"),
        (b"\x93NUMPY\x01\x00\x10", "header of x is cut short"),
        (npy(header(), SIX, length=60000), "x declares a header of 60000 bytes"),
        (npy(header(), SIX, version=2, length=2**32 - 1), "x declares a header of 4294967295 bytes"),
        (npy("{'descr': '|u1', 'fortran_order': False"), "header of x is damaged"),
        (npy("(" * 5000), "header of x is damaged"),
        (npy("-" * 9000 + "1"), "header of x is damaged"),
        (npy("{[]: 1}"), "header of x is damaged"),
        (npy(b"\xff\xfe\x00"), "header of x is damaged"),
        (npy("__import__('os').getcwd()"), "header of x is damaged"),
        (npy("[1, 2, 3]"), "must hold descr, fortran_order and shape"),
        (npy("{'descr': '|u1', 'shape': (2, 3)}", SIX), "must hold descr, fortran_order and shape"),
        (npy(header(order="0"), SIX), "fortran_order is neither True nor False"),
        (npy(header(shape="6"), SIX), "its shape is not a tuple of sizes"),
        (npy(header(shape="(-2, -3)"), SIX), "its shape is not a tuple of sizes"),
        (npy(header(shape="(2.0, 3)"), SIX), "its shape is not a tuple of sizes"),
        (npy(header(shape="(True, 6)"), SIX), "its shape is not a tuple of sizes"),
        (npy(header(shape="(2, 4)"), SIX), r"must have 8 bytes for its shape \(2, 4\), got 6"),
        (npy(header(shape="(2, 2)"), SIX), r"must have 4 bytes for its shape \(2, 2\), got 6"),
        (npy(header(shape="(99999999999, 99999999999)"), SIX), r"no array has the shape \(99999999999, 99999999999\)"),
        (npy(header(shape="(0, 99999999999, 99999999999)")), r"no array has the shape"),
        (npy(header(shape="(1, " + "1, " * 99 + ")"), b"1"), r"no array has the shape \(1, .* 100 axes\)"),
        (npy(header("'<f4'"), 4 * SIX), r"must hold bytes \(uint8\), got float32"),
        (npy(header("'|b1'"), SIX), r"must hold bytes \(uint8\), got bool"),
        (npy(header("'|i1'"), SIX), r"must hold bytes \(uint8\), got int8"),
        (npy(header("'|S6'"), SIX), r"must hold bytes \(uint8\), got '\|S6'"),
        (npy(header("'|O'"), SIX), r"must hold bytes \(uint8\), got Python objects"),
        (npy(header("'|u9999'"), SIX), r"must hold bytes \(uint8\), got '\|u9999'"),
        (npy(header("[('a', '|u1')]"), SIX), r"must hold bytes \(uint8\), got an array of records"),
    ],
)
def test_headers_that_are_no_array_of_bytes(tmp_path, member, complaint):
    """Whole archives, checksum and all: it is the array inside that cannot be one."""
    path = tmp_path / "x.npz"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(archive(member, method=method))
        with pytest.raises(DataError, match=complaint) as raised:
            read_npz(path, "x")
        assert_names(raised.value, path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_format_is_read(tmp_path, version):
    path = tmp_path / "x.npz"
    path.write_bytes(archive(npy(header(), SIX, version)))
    assert read_npz(path, "x").tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(archive(npy(header(order="True"), SIX, version)))
    assert read_npz(path, "x").tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 5), (2, 3, 4, 5)])
def test_what_numpy_saves_is_read(tmp_path, save, order, shape):
    array = np.asarray(np.random.default_rng(1).integers(0, 256, shape, np.uint8), order=order)
    save(tmp_path / "x.npz", y=np.zeros(3), x=array)
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz", "x"), array, strict=True)


def test_objects_are_never_loaded(tmp_path):
    """A pickle may run any program: the type is refused before it is looked at."""
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}, print], dtype=object))
    with pytest.raises(DataError, match="got Python objects"):
        read_npz(tmp_path / "x.npz", "x")


def with_declared_size(content, size):
    """The archive with another size of its (first) member, in the member's header and in the directory."""
    directory = content.index(b"PK\x01\x02")
    data = bytearray(content)
    data[22:26] = data[directory + 24 : directory + 28] = struct.pack("<I", size)
    return bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [2**20, 2**31, 2**32 - 2])
def test_archives_that_declare_more_than_they_hold(tmp_path, method, size):
    path = tmp_path / "x.npz"
    path.write_bytes(with_declared_size(archive(npy(header(), SIX), method=method), size))
    with pytest.raises(DataError, match=f"declares {size} bytes, more than the file can hold") as raised:
        read_npz(path, "x")
    assert_names(raised.value, path)


def test_idx_files_that_declare_more_than_they_hold(tmp_path):
    start = b"\x00\x00\x08\x03" + struct.pack(">3I", 60000, 2**31, 2**31)
    for name, content in (("x", start), ("x.gz", gzip.compress(start))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"no array has the shape \(60000, 2147483648, 2147483648\)"):
            read_idx(tmp_path / name)
    start = b"\x00\x00\x08\x02" + struct.pack(">2I", 2**15, 2**15)
    for name, content in (("x", start), ("x.gz", gzip.compress(start))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"expected 1073741824 bytes of data .* the file is too small"):
            read_idx(tmp_path / name)


def test_what_is_packed_too_well_is_not_unpacked(tmp_path):
    """A megabyte of zeros more than is declared: reading stops one byte after it."""
    content = b"\x00\x00\x08\x01" + struct.pack(">I", 10) + bytes(2**20)
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"expected 10 bytes of data .* got more than 10"):
        read_idx(tmp_path / "x.gz")


def test_idx_files_of_too_many_axes(tmp_path):
    (tmp_path / "x").write_bytes(b"\x00\x00\x08\xff" + struct.pack(">255I", *[1] * 255) + b"1")
    with pytest.raises(DataError, match=r"no array has the shape \(1, 1, .* 255 axes\)"):
        read_idx(tmp_path / "x")


def test_members_that_numpy_does_not_write(tmp_path):
    path = tmp_path / "x.npz"
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path.write_bytes(archive(npy(header(), SIX), method=method))
        with pytest.raises(DataError, match="x is encrypted, or compressed in another way"):
            read_npz(path, "x")
    content = bytearray(archive(npy(header(), SIX)))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="x is encrypted, or compressed in another way"):
        read_npz(path, "x")
    path.write_bytes(archive(b"", name="train\n\x1b[31m.npy"))
    with pytest.raises(DataError, match=r"expected an array named x, found train\\n\\x1b\[31m") as raised:
        read_npz(path, "x")
    assert_names(raised.value, path)
    path.write_bytes(archive(npy(header(), SIX), name="x"))  # without the suffix, as numpy.load takes it
    assert read_npz(path, "x").shape == (2, 3)


@pytest.mark.parametrize("name", KINDS)
def test_what_stands_in_a_files_place(tmp_path, name):
    content, read = KINDS[name]
    path = tmp_path / name
    with pytest.raises(DataError, match=r"cannot be read \(.*No such file") as raised:
        read(path)
    assert_names(raised.value, path)
    path.mkdir()
    with pytest.raises(DataError, match="expected a file, found a folder"):
        read(path)
    with pytest.raises(DataError, match="cannot be read"):
        read(path / "below" / ("long" * 100))
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / f"null\0{name}")
    other = tmp_path / f"other{path.suffix}"
    for text in (b"", b"\n", b"<html>404</html>", zlib.compress(content), b"PK\x05\x06", bytes(1000)):
        other.write_bytes(text)
        with pytest.raises(DataError) as raised:
            read(other)
        assert_names(raised.value, other)


def test_compressed_files_end_where_they_end(tmp_path):
    path = tmp_path / "x.gz"
    content = gzip.compress(idx_bytes(IMAGES))
    for damaged in (content + b"garbage", content[:-8] + bytes(4) + content[-4:], content[:-4], content + content):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.gz"):
            read_idx(path)
    path.write_bytes(content + bytes(20))  # padding, as on tapes: gzip takes it
    np.testing.assert_array_equal(read_idx(path), IMAGES)


def test_a_file_larger_than_any_data_set(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        file.truncate(MAX_ARRAY_BYTES + 1)  # sparse: no disk is filled
    with pytest.raises(DataError, match=f"expected at most {MAX_ARRAY_BYTES} bytes, the file has"):
        read_npz(tmp_path / "x.npz", "x")


@pytest.mark.parametrize(
    ("name", "file", "arrays", "complaint"),
    [
        ("frey", "frey_faces.npz", {"x": (0, 28, 20)}, r"got \(0, 28, 20\)"),
        ("frey", "frey_faces.npz", {"x": (300, 0, 20)}, r"got \(300, 0, 20\)"),
        ("frey", "frey_faces.npz", {"x": (300, 560)}, r"got \(300, 560\)"),
        ("frey", "frey_faces.npz", {"x": ()}, r"got \(\)"),
        (
            "mnist-binarized",
            "binarized_mnist.npz",
            {"train_packed": (3, 98)},
            "an array named test_packed, found train",
        ),
        ("mnist-binarized", "binarized_mnist.npz", {"train_packed": (0, 98), "test_packed": (3, 98)}, r"got \(0, 98\)"),
        (
            "mnist-binarized",
            "binarized_mnist.npz",
            {"train_packed": (3, 98), "test_packed": (3, 784)},
            r"got \(3, 784\)",
        ),
    ],
)
def test_arrays_of_another_data_set(tmp_path, name, file, arrays, complaint):
    np.savez(tmp_path / file, **{key: np.zeros(shape, np.uint8) for key, shape in arrays.items()})
    with pytest.raises(DataError, match=complaint) as raised:
        load_dataset(name, tmp_path)
    assert_names(raised.value, tmp_path / file)


def test_order_in_the_file_does_not_matter(tmp_path):
    frames = np.random.default_rng(2).integers(0, 256, (250, 4, 3), np.uint8)
    for order in ("C", "F"):
        (tmp_path / order).mkdir()
        np.savez(tmp_path / order / "frey_faces.npz", x=np.asarray(frames, order=order))
    first, second = (load_dataset("frey", tmp_path / order) for order in ("C", "F"))
    np.testing.assert_array_equal(first.train, second.train)
    np.testing.assert_array_equal(first.test, second.test)
