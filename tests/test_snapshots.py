"""Snapshots from anywhere: what is none is refused in one line, and takes no memory."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from dem.data.snapshots import Snapshots
from dem.errors import StoreError


def written(folder, shape, arrays=(), compress=zipfile.ZIP_STORED):
    """Write an archive as `Snapshots` does, or not quite."""
    members = [("shape", np.frombuffer(shape.encode(), np.uint8)), *enumerate(arrays)]
    with zipfile.ZipFile(folder / "a.npz", "w", compress) as archive:
        for name, array in members:
            raw = array
            if not isinstance(array, bytes):
                npy.write_array(stream := io.BytesIO(), array)
                raw = stream.getvalue()
            archive.writestr(f"{name}.npy", raw)
    return Snapshots(folder)


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("shape", "arrays"),
    [
        ({"array": 0}, []),
        ({"array": 0}, [header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n")]),
        ({"array": 0}, [header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }\n")]),
        ({"array": 0}, [header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"cos\nsystem\n"]),
        ({"array": 0}, [b"nothing"]),
        ({"array": -1}, [np.zeros(1)]),
        ({"array": "0"}, [np.zeros(1)]),
        ({"class": "os:system", "of": {"command": "true"}}, []),
        ({"class": "dem.data.snapshots:os", "of": {}}, []),
        ({"class": "dem.data.snapshots:Snapshots", "of": {"path": "a"}}, []),
        ({"class": "dem.nothing:Fit", "of": {}}, []),
        ({"class": "dem.em.algorithm:Fit", "of": {"no": 1}}, []),
        ({"class": "subprocess:Popen", "of": {"args": "true"}}, []),
        ({"enum": "dem.em.algorithm:Status", "is": "NOTHING"}, []),
        ({"what": 1}, []),
        ({}, []),
        ([], []),
        ('{"list": [' * 3000 + "]}" * 3000, []),
    ],
)
def test_hostile_archives_are_damaged_ones(shape, arrays, tmp_path):
    snapshots = written(tmp_path, shape if isinstance(shape, str) else json.dumps(shape), arrays)
    with pytest.raises(StoreError, match=r"^the snapshot a.npz in .* is damaged \("):
        snapshots.read("a")


def test_archives_that_grow_when_read_are_damaged(tmp_path):
    written(tmp_path, '{"array": 0}', [np.zeros(1000)], zipfile.ZIP_DEFLATED)
    with pytest.raises(StoreError, match=r"is damaged .*is compressed"):
        Snapshots(tmp_path).read("a")
    Path(tmp_path / "a.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(StoreError, match="is damaged"):
        Snapshots(tmp_path).read("a")
