"""Who may import whom: read from the imports themselves, so that the house keeps its walls."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room, and what of ours and of others it may import beyond itself and the standard library.
RULES: dict[str, frozenset[str]] = {
    "fetchmld/core": frozenset({"fetchmld.core", "fetchmld._fastqueue", "fetchmld._record", "blake3"}),
}
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "fetchmld/store": ("ray", "actors", "fetchmld.api", "fetchmld.cli", "fetchmld.client"),
    "fetchmld/api": ("ray", "actors", "duckdb", "fetchmld.store", "fetchmld.cli", "fetchmld.client"),
    "fetchmld/gpus": ("ray", "actors", "fetchmld.api", "fetchmld.store", "fetchmld.cli", "fetchmld.client"),
    "fetchmld/client": ("ray", "actors", "fetchmld.core", "fetchmld.store", "fetchmld.api"),
    "fetchmld/channel.py": ("ray", "actors", "aiohttp", "fetchmld.store", "fetchmld.api"),
}
IMPURE = ("asyncio", "time", "random", "secrets", "logging", "socket", "threading", "subprocess", "datetime")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where things are"
            yield node.module or ""


def files(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def within(module: str, allowed: tuple[str, ...] | frozenset[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


@pytest.mark.parametrize("place", sorted(FORBIDDEN))
def test_no_room_reaches_where_it_may_not(place: str) -> None:
    for file in files(place):
        for module in imports(file):
            assert not within(module, FORBIDDEN[place]), f"{file.relative_to(ROOT)} imports {module}"


def test_the_core_is_pure() -> None:
    for file in files("fetchmld/core"):
        for module in imports(file):
            name = file.relative_to(ROOT)
            assert not within(module, IMPURE), f"{name} imports {module}: the core has no clock, I/O or randomness"
            allowed = within(module, RULES["fetchmld/core"]) or module.split(".")[0] in sys.stdlib_module_names
            assert allowed, f"{name} imports {module}"


def test_the_runner_needs_the_standard_library_alone() -> None:
    ours = {"fetchmld.runner", "fetchmld"}
    todo = ["fetchmld/runner"]
    while todo:
        for file in files(todo.pop()):
            for module in imports(file):
                root = module.split(".")[0]
                if root == "fetchmld" and module not in ours and (ROOT / (module.replace(".", "/") + ".py")).exists():
                    ours.add(module)
                    todo.append(module.replace(".", "/") + ".py")
                assert root not in ("ray", "aiohttp", "pydantic", "orjson", "duckdb"), f"{file.name} imports {module}"


def test_only_the_heads_shell_knows_the_api_and_only_start_and_stop_know_the_actors() -> None:
    for file in files("actors"):
        if file.name != "head.py":
            assert not [module for module in imports(file) if within(module, ("fetchmld.api",))], file.name
    for file in files("fetchmld/cli"):
        if file.name not in ("start.py", "stop.py"):
            assert not [module for module in imports(file) if within(module, ("actors", "ray"))], file.name
