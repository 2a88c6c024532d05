"""A client command starts fast because of what it does not import."""

import subprocess
import sys

import pytest

from fetchmld.cli import COMMANDS, root

HEAVY = {"ray", "aiohttp", "pydantic", "pydantic_settings", "asyncio", "rich", "urllib3", "duckdb", "pyarrow", "orjson"}
CLIENT_COMMANDS = [name for name in COMMANDS if name not in ("start", "config")]


@pytest.mark.parametrize("words", ["ls", "submit --dry-run -- true", "logs -f x", "status", "stop", "audit root"])
def test_a_client_command_imports_nothing_heavy(words: str, tmp_path: object) -> None:
    code = (
        "import sys\nfrom fetchmld.cli import main\n"
        f"try:\n    main({words.split()!r})\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
    )
    environment = {"FETCHML_ADDRESS": "http://127.0.0.1:1", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_says_what_help_says(name: str) -> None:
    import click

    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_importing_every_client_module_is_still_light() -> None:
    modules = sorted({f"fetchmld.cli.{module}" for name, (module, _) in COMMANDS.items() if name in CLIENT_COMMANDS})
    code = f"import sys, {', '.join(modules)}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
