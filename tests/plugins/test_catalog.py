"""Which plugins there are, whatever strangers install; and that their settings are checked."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from fetchmld.core.errors import Invalid
from fetchmld.core.model import PluginConfig
from fetchmld.plugins import catalog
from fetchmld.plugins.protocol import Plugin, RemoteCapable, Tracker
from tests.plugins import example


def of(name: str) -> Plugin:
    found = catalog.catalog()[name].plugin
    assert found is not None
    return found


def test_ours_are_found_by_their_entry_points_and_pinned() -> None:
    assert list(catalog.catalog()) == ["mlflow", "tensorboard"]
    for name in catalog.catalog():
        plugin = of(name)
        assert isinstance(plugin, Tracker)
        assert f"{name}=={plugin.version}" in plugin.requirements
        assert all("--hash=sha256:" in block for block in plugin.requirements.split("\n\n") if "==" in block)
    assert isinstance(of("mlflow"), RemoteCapable)
    assert not isinstance(of("tensorboard"), RemoteCapable)


def test_the_example_is_loaded_by_its_own_entry_point() -> None:
    with example.installed():
        assert list(catalog.catalog()) == ["mlflow", "scoreboard", "tensorboard"]
        plugin = of("scoreboard")
        assert isinstance(plugin, Tracker)
        assert catalog.checked(plugin, {"title": "x"}).model_dump() == {"title": "x"}
    assert "scoreboard" not in catalog.catalog()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("x", "nowhere.at_all:plugin", "ModuleNotFoundError"),
        ("x", "json:nothing", "AttributeError"),
        ("x", "json:dumps", "is no plugin: it has no name, version"),
        ("y", "fetchmld.plugins.mlflow:plugin", "calls itself 'mlflow'"),
        ("Bad_Name", "fetchmld.plugins.mlflow:plugin", "its name is not"),
        ("../x", "fetchmld.plugins.mlflow:plugin", "its name is not"),
    ],
)
def test_one_that_cannot_be_loaded_says_why_and_harms_nobody(name: str, value: str, problem: str) -> None:
    points = [
        EntryPoint(name, value, catalog.GROUP),
        EntryPoint("mlflow", "fetchmld.plugins.mlflow:plugin", catalog.GROUP),
    ]
    found = catalog.load(points)
    assert found[name].plugin is None
    assert problem in found[name].problem
    assert found["mlflow"].plugin is not None


@pytest.mark.parametrize(
    ("name", "settings", "where"),
    [
        ("mlflow", {"surprise": 1}, "settings.surprise"),
        ("mlflow", {"backend_store_uri": "file:///etc"}, "settings.backend_store_uri"),
        ("mlflow", {"username": 7}, "settings.username"),
        ("tensorboard", {"reload_interval_s": 0}, "settings.reload_interval_s"),
        ("tensorboard", {"samples_per_plugin": "--flag"}, "settings.samples_per_plugin"),
    ],
)
def test_a_bad_setting_is_named_and_its_value_is_not_repeated(name: str, settings: dict[str, Any], where: str) -> None:
    with pytest.raises(Invalid) as refused:
        catalog.checked(of(name), settings)
    assert refused.value.message.startswith(where)
    assert "etc" not in refused.value.message


def config(mode: Any = "sidecar", **settings: Any) -> PluginConfig:
    return PluginConfig(enabled=True, mode=mode, settings=settings)


def test_what_may_change_while_it_runs() -> None:
    mlflow = of("mlflow")
    assert catalog.is_hot(mlflow, config(), config(experiment_prefix="a"))
    assert catalog.is_hot(mlflow, config(experiment_prefix="a"), config())
    assert not catalog.is_hot(mlflow, config(), config(artifacts_destination="s3://b/c"))
    assert not catalog.is_hot(mlflow, config(), config("remote"))
    assert catalog.requires_restart(mlflow)


def test_a_mode_that_the_plugin_does_not_have() -> None:
    with pytest.raises(Invalid, match="^mode: tensorboard runs as a sidecar only"):
        catalog.check_config(of("tensorboard"), config("remote"), {})
    for address in ("", "ftp://x/", "file:///etc/passwd", "unix:/x"):
        with pytest.raises(Invalid, match=r"^settings\.tracking_uri: must be"):
            catalog.check_config(of("mlflow"), config("remote"), {"tracking_uri": address})
    with pytest.raises(Invalid, match="must not hold a user name") as refused:
        catalog.check_config(of("mlflow"), config("remote"), {"tracking_uri": "https://ada:hunter2@mlflow.example.org"})
    assert "hunter2" not in refused.value.message
    catalog.check_config(of("mlflow"), config("remote"), {"tracking_uri": "https://mlflow.example.org"})
