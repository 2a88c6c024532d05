"""The client's types say what the served document says."""

import ast
from pathlib import Path

from fetchmld.client import shapes
from tests.client.shape_writer import written


def test_the_types_are_those_of_the_served_schemas() -> None:
    """Where this fails: python -m tests.client.shape_writer > fetchmld/client/shapes.py, then ruff format it."""
    assert ast.dump(ast.parse(Path(shapes.__file__).read_text())) == ast.dump(ast.parse(written()))
