"""Query parameters: text to values, without a server."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from fetchmld.api import query, wire
from fetchmld.core.errors import BadRequest


def params(**given: str) -> "MultiDict[str]":
    return MultiDict(given)


def test_absent_parameters_have_their_defaults() -> None:
    nothing = params()
    assert query.page(nothing, 50) == (50, 0)
    assert query.choice(nothing, "status", ("queued",)) is None
    assert query.text(nothing, "user_id") is None
    assert query.flag(nothing, "follow", False) is False
    assert query.seconds(nothing, "wait_s") == 0
    assert query.instant_us(nothing, "from") is None
    assert query.plugins(nothing) is None


def test_pages() -> None:
    assert query.page(params(limit="1000", offset="12"), 50) == (1000, 12)
    assert query.page(params(limit="0050"), 9) == (50, 0)
    for offset in ("9" * 16, "9" * 40, "9" * 8000):  # an offset beyond everything is one, too
        assert query.page(params(offset=offset), 9) == (9, query.OFFSET_MAX)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "+5", "", "x", "1.0", "\u0661", " 1", "1 ", "9" * 30, "1e3"])
def test_a_bad_limit(limit: str) -> None:
    with pytest.raises(BadRequest, match="limit="):
        query.page(params(limit=limit), 50)


@pytest.mark.parametrize("offset", ["-1", "x", "", "1e3"])
def test_a_bad_offset(offset: str) -> None:
    with pytest.raises(BadRequest, match="offset="):
        query.page(params(offset=offset), 50)


def test_a_parameter_given_twice() -> None:
    with pytest.raises(BadRequest, match="given 2 times"):
        query.page(MultiDict([("limit", "1"), ("limit", "2")]), 50)


@pytest.mark.parametrize(
    ("text", "filtered"),
    [("", None), ("ada", "ada"), ("a\0b", query.NOBODY), ("a\nb", query.NOBODY), ("x" * 257, query.NOBODY)],
)
def test_what_no_name_can_be_nothing_has(text: str, filtered: str | None) -> None:
    assert query.text(params(user_id=text), "user_id") == filtered


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_flags(text: str, value: bool) -> None:
    assert query.flag(params(follow=text), "follow", not value) is value


@pytest.mark.parametrize("text", ["yes", "", "True"])
def test_a_bad_flag(text: str) -> None:
    with pytest.raises(BadRequest, match="follow="):
        query.flag(params(follow=text), "follow", False)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("60", 60.0), ("1.5", 1.5), ("60.0", 60.0)])
def test_seconds(text: str, value: float) -> None:
    assert query.seconds(params(wait_s=text), "wait_s") == value


@pytest.mark.parametrize("text", ["61", "-1", "60.1", "nan", "inf", "1e1", "", "x"])
def test_bad_seconds(text: str) -> None:
    with pytest.raises(BadRequest, match="wait_s="):
        query.seconds(params(wait_s=text), "wait_s")


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 1_000_000),
        ("1970-01-01 00:00:01.5Z", 1_500_000),
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T01:00:00 01:00", 0),
        ("1969-12-31T23:59:59.999999-00:00", -1),
        ("1972-06-30T23:59:60Z", 78_796_800_000_000),
    ],
)
def test_instants(text: str, at_us: int) -> None:
    assert query.instant_us(params(to=text), "to") == at_us


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "2026-01-31T25:00:00Z", "1769860800",
     "0000-01-01T00:00:00Z", "2026-01-31T12:00:00+99:00", "2026-01-31T12:00:61Z", "2026-01-31T12:00Z"],
)  # fmt: skip
def test_bad_instants(text: str) -> None:
    with pytest.raises(BadRequest, match="to="):
        query.instant_us(params(to=text), "to")


@given(st.integers(0, 253_402_300_799_999_999))
def test_an_instant_that_we_wrote_is_read_back_exactly(at_us: int) -> None:
    assert query.instant_us(params(at=wire.instant_us(at_us)), "at") == at_us


def test_instants_from_seconds_have_microseconds_and_a_z() -> None:
    assert wire.instant(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()) == "2026-01-31T12:00:00.000000Z"
    assert wire.instant(0.25) == "1970-01-01T00:00:00.250000Z"


def test_plugins_by_json_and_by_deep_object() -> None:
    text = json.dumps({"mlflow": {"enabled": True}, "a": {}})
    assert query.plugins(params(plugin_configs=text)) == ("a", "mlflow")
    deep = MultiDict([("plugin_configs[mlflow][enabled]", "true"), ("plugin_configs[mlflow][mode]", "remote")])
    assert query.plugins(deep) == ("mlflow",)
    assert query.plugins(params(plugin_configs="{}")) is None
    assert query.plugins(params(plugin_configs='{"\\u0000": {}}')) == (query.NOBODY,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "x",
        '{"a": 1}',
        "[" * 10_000,
        '{"a": {"mode": "x"}}',
        '{"a": {"mode": []}}',
        '{"a": {"enabled": "true"}}',
    ],
)
def test_bad_plugins(text: str) -> None:
    with pytest.raises(BadRequest, match="plugin_configs"):
        query.plugins(params(plugin_configs=text))


@pytest.mark.parametrize(
    ("field", "value", "is_right"),
    [
        ("[mode]", "sideways", False),
        ("[mode][deeper]", "remote", False),
        ("[enabled]", "yes", False),
        ("[enabled]", "false", True),
        ("[image]", "", True),
        ("[image][deeper]", "x", False),
        ("[settings]", "x", False),
        ("[settings]", "", True),
        ("[settings][any][thing]", "x", True),
        ("[anything]", "x", True),
        ("", "", True),
    ],
)
def test_what_a_configuration_in_a_filter_says_has_to_be_right(field: str, value: str, is_right: bool) -> None:
    given = MultiDict([("plugin_configs[a][mode]", "remote"), (f"plugin_configs[a]{field}", value)])
    if is_right:
        assert query.plugins(given) == ("a",)
        return
    with pytest.raises(BadRequest, match=r"plugin_configs\['a'\]\[(mode|enabled|image|settings)\]"):
        query.plugins(given)
