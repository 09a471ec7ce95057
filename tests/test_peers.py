"""dem's numbers beside those of its peers; `make test-peers` installs them and runs this."""

from __future__ import annotations

import pytest
from peers import collected

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),  # of the peers
]
COMPARISONS = {name: one for comparisons in collected().values() for name, one in comparisons.items()}


@pytest.mark.parametrize("name", COMPARISONS)
def test_agrees_with_its_peer(name):
    _, compare, most = COMPARISONS[name]
    assert compare() < most
