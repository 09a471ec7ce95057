"""Values become JSON and arrays, and come back to the same bits."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest

from dem.data.base import Chunk
from dem.data.snapshots import Snapshots
from dem.em.algorithm import Fit, Status
from dem.errors import StoreError
from dem.packing import pack, unpack


def there_and_back(value):
    shape, arrays = pack(value)
    return unpack(json.loads(json.dumps(shape)), arrays)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -0.0,
        5e-324,
        0.1 + 0.2,
        float("inf"),
        2**80,
        "word",
        (1, (2.5, None)),
        [1, ["a"]],
        {1: "a", "b": (1,), (1, 2): None},
        range(3, 9, 2),
        Status.CONVERGED,
    ],
    ids=str,
)
def test_plain_values(value):
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)
    assert str(found) == str(value), "the sign of 0"


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan, -0.0, np.inf, 5e-324]),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">i2"),
        np.array([True, False]),
        np.array(3.5, dtype=np.float32),
        np.array(["a", "bc"]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays(array):
    found = there_and_back(array)
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape, found.flags.f_contiguous) == (array.dtype, array.shape, array.flags.f_contiguous)


def test_dataclasses_and_numbers_of_numpy():
    one = Fit(Chunk(np.ones((2, 3)), range(4, 6), weights=np.ones(2)), Status.FAILED, [1.0], reached=np.float64(2.0))
    found = there_and_back(one)
    assert type(found.reached) is np.float64
    assert found.status is Status.FAILED
    assert found.parameters.index == range(4, 6)
    np.testing.assert_array_equal(found.parameters.weights, np.ones(2))


def test_one_array_is_one():
    array = np.arange(3.0)
    shape, arrays = pack((array, array))
    assert len(arrays) == 1
    first, second = unpack(shape, arrays)
    assert first is second


def test_what_cannot_be_stored_is_named():
    with pytest.raises(TypeError, match=r"^builtins.set cannot be stored$"):
        pack([{1}])
    with pytest.raises(TypeError, match="an array of Python objects cannot be stored"):
        pack(np.array([object()]))


def test_only_trusted_packages_are_named():
    shape = {"class": "fractions:Fraction", "of": {}}
    with pytest.raises(ValueError, match="fractions:Fraction is of no package that is trusted here"):
        unpack(shape, [])
    with pytest.raises(ValueError, match="fractions:Fraction is no dataclass"):
        unpack(shape, [], packages=("fractions",))


# Files that were made to harm -------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    snapshots = Snapshots(tmp_path)
    snapshots.write("a", (np.arange(100.0), np.arange(6).reshape(2, 3), "word"))
    return snapshots, tmp_path / "a.npz"


def refused(snapshots, match):
    with pytest.raises(StoreError, match=rf"^the snapshot a\.npz in .* is damaged \(.*{match}"):
        snapshots.read("a")


def in_the_table(path, offset, value):
    """Change a field of the first entry in the table of contents of an archive (APPNOTE 4.3.12)."""
    content = bytearray(path.read_bytes())
    begins = content.index(b"PK\x01\x02")
    content[begins + offset : begins + offset + len(value)] = value
    path.write_bytes(bytes(content))


def test_members_that_lie_in_one_another(written):
    snapshots, path = written
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        with zipfile.ZipFile(path, "a") as again:
            for number in range(3, 1000):  # 996 times the same bytes
                member = zipfile.ZipInfo(f"{number}.npy")
                for field in ("CRC", "header_offset", "file_size", "compress_size", "flag_bits", "orig_filename"):
                    setattr(member, field, getattr(first, field))
                again.filelist.append(member)
                again.NameToInfo[member.filename] = member
            again._didModify = True
    refused(snapshots, r"its members take more than the \d+ bytes of the file")


def test_members_that_claim_more_than_the_file(written):
    snapshots, path = written
    in_the_table(path, 20, (2**31 - 2).to_bytes(4, "little") * 2)
    refused(snapshots, r"its members take more than the \d+ bytes of the file")


def test_encrypted_members_and_places_before_the_file(written):
    snapshots, path = written
    in_the_table(path, 8, b"\x01")
    refused(snapshots, "is encrypted")
    in_the_table(path, 8, b"\x00")
    content = path.read_bytes()
    path.write_bytes(content[40:])  # all begins before it is said to
    refused(snapshots, "")


@pytest.mark.parametrize(
    "header",
    ["'", "((((((((", "{" * 3000, "{'descr': '<f8', [", "{[]: 1}", "lambda: 1", "1\n  2\n 3", "{'a': 1, 2: 3}", "\\"],
    ids=lambda header: header[:20],
)
def test_headers_of_arrays_that_are_none(tmp_path, header):
    text = header.encode()
    array = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("shape.npy", array)
    refused(Snapshots(tmp_path), "")


def test_pipes_and_links_that_were_laid(tmp_path):
    snapshots = Snapshots(tmp_path / "kept")
    snapshots.write("a", 1)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "kept" / f".b.npz.{os.getpid()}.part").symlink_to(mine)
    snapshots.write("b", 2)
    assert mine.read_text() == "mine"
    assert snapshots.read("b") == 2
    (tmp_path / "kept" / "a.npz").unlink()
    os.mkfifo(tmp_path / "kept" / "a.npz")
    with pytest.raises(StoreError, match="it is no plain file"):
        snapshots.read("a")
