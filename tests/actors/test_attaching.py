"""Where tasks are told that the head is, and which plugins they mean."""

from pathlib import Path
from typing import Any

import pytest

from actors.attaching import named, tasks_url
from fetchmld.config import Config


@pytest.mark.parametrize(
    ("settings", "members_url", "url"),
    [
        ({}, "", "http://127.0.0.1:9101"),
        ({"host": "0.0.0.0"}, "", "http://127.0.0.1:9101"),
        ({"host": "::"}, "", "http://[::1]:9101"),
        ({"host": "10.0.0.1", "port": 7000}, "", "http://10.0.0.1:7000"),
        ({}, "http://10.0.0.1:9101/", "http://10.0.0.1:9101"),
        ({"tls_cert": "/c", "tls_key": "/k", "host": "10.0.0.1"}, "", "https://10.0.0.1:9101"),
    ],
)
def test_where_tasks_find_the_head(tmp_path: Path, settings: dict[str, Any], members_url: str, url: str) -> None:
    assert tasks_url(Config(data_dir=tmp_path, **settings), members_url) == url


def test_a_plugin_may_be_named_to_be_left_out() -> None:
    configs: dict[str, Any] = {"a": {}, "b": {"enabled": False}, "c": {"mode": "disabled"}, "d": {"mode": "remote"}}
    assert list(named(configs)) == ["a", "d"]
