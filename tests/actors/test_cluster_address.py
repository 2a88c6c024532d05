"""Where the other machines find the head, by its settings."""

from typing import Any

import pytest

from actors import daemon
from actors.daemon import cluster_address
from actors.data_dir import Refused


@pytest.mark.parametrize(
    ("host", "node_address", "found"),
    [
        ("127.0.0.1", "", "127.0.0.1"),
        ("localhost", "", "127.0.0.1"),
        ("::1", "", "127.0.0.1"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("0.0.0.0", "", "10.9.9.9"),
        ("::", "", "10.9.9.9"),
        ("2001:db8::1", "", "127.0.0.1"),  # of the API; Ray stays closed
        ("0.0.0.0", "10.4.4.4", "10.4.4.4"),
    ],
)
def test_the_address_that_others_can_reach(
    host: str, node_address: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "primary_address", lambda: "10.9.9.9")
    settings: dict[str, Any] = {"host": host, "node_address": node_address}
    assert cluster_address(settings) == found


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(Refused, match="set node_address"):
        cluster_address({"host": "0.0.0.0", "node_address": "not an address"})
