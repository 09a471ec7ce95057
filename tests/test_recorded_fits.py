"""The numbers of dem stay: fits come back as they were recorded, to the bit where the environment is the same."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from record_fits import FITS, RECORDED, Places, fingerprint

# How far numbers may be from the recorded ones, relative to the largest of their kind; 0 means the same bits.
TOLERANCES = {"gaussian": 0.0, "kmeans": 0.0, "stepwise": 1e-12, "other": 1e-13}
# Elsewhere other instructions round otherwise, and iterations pass it on; also those of single precision.
ELSEWHERE, ELSEWHERE_SINGLE = 1e-9, 1e-5


@pytest.fixture(scope="module")
def recorded():
    """The fits of this environment and whether it is one that was recorded."""
    records = json.loads(RECORDED.read_text())
    here = fingerprint()
    same = next((record for record in records if record["fingerprint"] == here), None)
    return (same or records[0])["fits"], same is not None


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(tmp_path_factory.mktemp("recorded"))


def is_slow(name):
    return "batch" not in name or name.endswith("cluster")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if is_slow(name) else name for name in FITS]
)
def test_fits_are_what_they_were(name, recorded, places, request):
    fits, same_environment = recorded
    fit = FITS[name]
    client = request.getfixturevalue("client") if fit.place == "cluster" else None
    with contextlib.nullcontext(client):
        outcome = fit.outcome(places.rows(fit))
    assert outcome.keys() == fits[name].keys()
    tolerance = TOLERANCES[fit.kind]
    if not same_environment:
        tolerance = ELSEWHERE_SINGLE if name.endswith("f4") else ELSEWHERE
    for what, numbers in outcome.items():
        if tolerance == 0.0:
            assert numbers == fits[name][what], what
        else:
            ours, theirs = ([float.fromhex(number) for number in some] for some in (numbers, fits[name][what]))
            largest = max(map(abs, theirs), default=0.0)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * largest, err_msg=what)


def test_every_recorded_fit_is_compared(recorded):
    assert recorded[0].keys() == FITS.keys()
