"""Changes of files, and arguments of the shell, as strategies of Hypothesis."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import click
from hypothesis import strategies as st

from dem.cli.main import dem as command

#: what JSON may hold where something else is expected
ODD: list[Any] = [None, True, -1, 0, 1, 3, 2**31, 10**15, 10**30, -0.5, 1e308, float("nan"), "", "x", "..", "../../x"]
ODD += [
    "/etc/passwd",
    "O",
    "|O",
    "<f8",
    "<U99999999",
    "V8",
    "pickle",
    "NaN",
    "a" * 300,
    [],
    {},
    [[]],
    [-1, 0],
    [1] * 99,
]
ODD += [{"id": "pickle"}, [{"id": "pickle"}], {"name": "gzip"}, [{"name": "numcodecs.zlib"}], {"not finite": []}]
ODD += [
    [1] * 99,
    [2, 3],
    [10**15, 3],
    [0, 0],
    "Infinity",
    {"name": "x", "configuration": {}},
    [{"name": "sharding_indexed"}],
]
# Bytes that mean something in JSON, NumPy's, zip's and Zstandard's files.
_BYTES = [b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff", b"PK\x01\x02", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xd8\x00", b'"']
_BYTES += [b"[" * 9999, b"1e999", b"}", b"'|O'", b"((((", b"-1", b"99999999999"]

_NUMBER = st.integers(0, 10**6)


@st.composite
def changed_files(draw: st.DrawFn, folder: Path) -> dict[str, bytes | None]:
    """Return new contents of one or two files of a folder; None for a file that is to go."""
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    found: dict[str, bytes | None] = {}
    for name in draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
        content = (folder / name).read_bytes()
        kind = draw(st.sampled_from(["json", "json", "json", "bytes", "bytes", "gone", "empty"]))
        if kind == "gone":
            found[name] = None
        elif kind == "json" and content[:1] == b"{":
            found[name] = json.dumps(_changed(draw, json.loads(content))).encode()
        else:
            found[name] = b"" if kind == "empty" else _changed_bytes(draw, content)
    return found


def _changed(draw: st.DrawFn, document: Any) -> Any:
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        holder, key = places[draw(_NUMBER) % len(places)]
        how = draw(st.sampled_from(["odd", "odd", "odd", "gone", "other place"]))
        if how == "gone":
            del holder[key]
        elif how == "other place":
            other, from_there = places[draw(_NUMBER) % len(places)]
            holder[key] = json.loads(json.dumps(other[from_there]))
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return document


def _places(document: Any) -> Any:
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from _places(document[key])


def _changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(_NUMBER) % (len(changed) + 1)
        how = draw(st.sampled_from(["bit", "over", "into", "cut"]))
        if how == "bit" and place < len(changed):
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del changed[place : place + draw(st.integers(1, 40))]
        else:
            given = draw(st.sampled_from(_BYTES))
            changed[place : place + (len(given) if how == "over" else 0)] = given
    return bytes(changed)


# Neither dots nor slashes: what a command writes or replaces is in the current folder. No argument has a zero byte.
_WORDS = st.text(st.characters(codec="utf-8", exclude_characters="./~\\\0"), max_size=8)
_VALUES = st.one_of(
    st.sampled_from(["0", "1", "2", "3", "-1", "1.5", "nan", "inf", "1e400", "1,2", "1-3", "u,v", "", " ", "0.1"]),
    st.sampled_from(["data.zarr", "gaussian", "kmeans", "x.parquet", "nothing.zarr", "out.zarr", "u", "weights", "5%"]),
    _WORDS,
)
# They start processes, wait for addresses, or take as long as they are told.
_LEFT_OUT = {"scheduler", "workers", "max_iter", "n_init", "help"}


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """Return arguments of `dem`, most of which are half right."""
    name = draw(st.sampled_from(sorted(set(command.commands) - {"demo"})))
    found = [name]
    one: Any = command.commands[name]
    for parameter in one.params:
        if isinstance(parameter, click.Argument):
            likely = ["gaussian" if parameter.name == "model" else "data.zarr", "2", "out.zarr"]
            found.append(draw(st.one_of(st.sampled_from(likely), st.sampled_from(likely), _VALUES)))
    options = [one for one in one.params if isinstance(one, click.Option) and one.name not in _LEFT_OUT]
    for option in draw(st.lists(st.sampled_from(options), max_size=5)):
        found.append(draw(st.sampled_from(option.opts)))
        if not option.is_flag:
            choices = getattr(option.type, "choices", ())
            found.append(str(draw(st.sampled_from(list(choices)) if choices and draw(st.booleans()) else _VALUES)))
    return found + (draw(st.lists(_VALUES, max_size=1)) if draw(st.integers(0, 9)) == 0 else [])
