"""
Where bgctl looks for the server.
"""

from __future__ import annotations

import pytest

from bridge.cli.desk import admin_url


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("tcp:8001:interface=127.0.0.1", "http://127.0.0.1:8001"),
        ("tcp:8001", "http://127.0.0.1:8001"),
        ("tcp:port=8001:interface=0.0.0.0", "http://127.0.0.1:8001"),
        ("tcp6:8001:interface=\\:\\:1", "http://[::1]:8001"),
        ("ssl:8443:interface=10.0.0.1", "https://10.0.0.1:8443"),
        ("unix:/run/admin.sock", "unix:/run/admin.sock"),
        ("unix:address=/run/admin.sock", "unix:/run/admin.sock"),
        ("https://ops.example/", "https://ops.example"),
    ],
)
def test_an_endpoint_string_has_its_url(endpoint: str, url: str) -> None:
    """
    The server's own words for its listener are enough to find it.
    """
    assert admin_url(endpoint) == url
