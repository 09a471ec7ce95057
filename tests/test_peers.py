"""dem's numbers beside those of its peers; `make test-peers` installs them and runs this."""

from __future__ import annotations

import pytest
from peers import COMPARISONS

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),  # of the peers
]


@pytest.mark.parametrize("name", COMPARISONS)
def test_agrees_with_its_peer(name):
    _, compare, most = COMPARISONS[name]
    assert compare() < most
