"""zarrs decodes what it decodes to the same values; what it does not, or what is not whole, is read by zarr."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import zarr
from numcodecs import FixedScaleOffset
from stores import LAYOUTS, TABLE, mixture, remove, store
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec

import dem.data.zarr_part
from dem.data import open_rows
from dem.data.zarr_native import native_values
from dem.errors import DataError, MissingDataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge")


@pytest.fixture(autouse=True)
def _automatic():
    with pipeline("auto"):
        yield


@pytest.fixture
def by_zarrs(monkeypatch):
    """Whether zarrs has given the values of each read so far."""
    pytest.importorskip("zarrs")
    seen = []

    def noted(*arguments):
        values = native_values(*arguments)
        seen.append(values is not None)
        return values

    monkeypatch.setattr(dem.data.zarr_part, "native_values", noted)
    return seen


def pipeline(name):
    return dask.config.set({"dem.codec-pipeline": name})


def read(path, **options):
    return np.concatenate([chunk.rows for batch in open_rows(path, **options).batches() for chunk in batch])


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i2", "u1", "bool"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_of_every_layout_and_type(tmp_path, by_zarrs, layout, dtype):
    table = (TABLE * 3).astype(dtype)
    if dtype[0] == "f":
        table[7] = np.nan, -0.0
        table[8] = np.inf, np.finfo(dtype).smallest_subnormal
    store(tmp_path / "x.zarr", layout, table)
    rows = read(tmp_path / "x.zarr")
    assert by_zarrs
    assert all(by_zarrs)
    assert rows.dtype == table.dtype
    assert rows.tobytes() == table.tobytes()


@pytest.mark.parametrize(
    "how",
    [
        {"compressors": None},
        {"compressors": BloscCodec(cname="zstd")},
        {"compressors": BloscCodec(cname="lz4", shuffle="noshuffle")},
        {"compressors": GzipCodec()},
        {"compressors": ZstdCodec(level=3, checksum=True)},
        {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
        {"serializer": BytesCodec(endian="big")},
    ],
    ids=["none", "blosc-zstd", "blosc-lz4", "gzip", "zstd", "transposed", "big-endian"],
)
def test_values_of_every_codec(tmp_path, by_zarrs, how):
    store(tmp_path / "x.zarr", **how)
    assert read(tmp_path / "x.zarr").tobytes() == TABLE.tobytes()
    assert all(by_zarrs)


def test_parts_of_chunks_and_axes_in_another_order(tmp_path, by_zarrs):
    table = np.random.default_rng(0).normal(size=(3, 17, 11))
    zarr.create_array(tmp_path / "x.zarr", data=table, chunks=(2, 5, 4))
    rows = read(tmp_path / "x.zarr", feature_dim=0)
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], (t := table.reshape(3, -1).T)[np.argsort(t[:, 0])])
    assert all(by_zarrs)


def test_what_may_differ_is_left_to_zarr(tmp_path, by_zarrs):
    table = np.rint(TABLE * 8) / 8
    lossy = FixedScaleOffset(offset=0, scale=8, dtype="<f8", astype="<i4")
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=table.shape, dtype="f8", chunks=(10, 2), zarr_format=2, filters=[lossy]
    )
    array[...] = table
    np.testing.assert_array_equal(read(tmp_path / "x.zarr"), table)
    assert by_zarrs
    assert not any(by_zarrs)


def test_fits_have_the_same_bits(tmp_path, by_zarrs):
    store(tmp_path / "x.zarr", "shards")
    with pipeline("zarr"):
        expected = mixture().fit(tmp_path / "x.zarr")
    assert not any(by_zarrs)
    with pipeline("zarrs"):
        np.testing.assert_array_equal(mixture().fit(tmp_path / "x.zarr").means_, expected.means_)
    assert any(by_zarrs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "garbage", "a pipe"])
def test_damage_is_told_as_by_zarr(tmp_path, by_zarrs, layout, damage):
    """Also of one that comes to be while data is open."""
    path = tmp_path / "x.zarr"
    store(path, layout)
    rows, file = open_rows(path), path / ("3.0" if layout == "v2" else "c/3/0")
    content = file.read_bytes()
    remove(path, layout, 3)
    if damage in ("empty", "short", "garbage"):
        file.write_bytes({"empty": b"", "short": content[: len(content) // 2], "garbage": b"x" * len(content)}[damage])
    elif damage == "a pipe":
        file.mkdir()  # reading a pipe would wait for ever, by zarr too
    told = []
    for name in ("zarr", "zarrs"):
        with pipeline(name), pytest.raises((DataError, MissingDataError)) as caught:
            mixture().fit(path)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert "3" in told[0]
    assert rows.n_rows == len(TABLE)


def test_a_chunk_missing_in_a_shard_is_seen(tmp_path, by_zarrs):
    array = zarr.create_array(tmp_path / "x.zarr", shape=(120, 2), dtype="f8", chunks=(5, 2), shards=(20, 2))
    array[:45] = TABLE[:45]
    array[50:] = TABLE[50:]  # 45 to 49 are in a shard that is there
    with pytest.raises(MissingDataError, match=r"^chunk \(9, 0\), inside shard c/2/0, of .* \(rows 45 to 49\) is"):
        mixture().fit(tmp_path / "x.zarr")


def test_the_setting(tmp_path, monkeypatch):
    store(tmp_path / "x.zarr")
    with pipeline("rust"), pytest.raises(OptionError, match=r"^dem\.codec-pipeline must be 'auto', 'zarrs' or 'zarr'"):
        mixture().fit(tmp_path / "x.zarr")
    monkeypatch.setattr("dem.data.zarr_native._is_installed", lambda: False)
    assert read(tmp_path / "x.zarr").tobytes() == TABLE.tobytes()
    with pipeline("zarrs"), pytest.raises(OptionError, match=r"not installed: pip install 'dask-em\[zarrs\]'"):
        mixture().fit(tmp_path / "x.zarr")
