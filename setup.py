"""Builds the native modules and bundles the web console; everything else about the package is in pyproject.toml."""

import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

NATIVE = ["_fastqueue", "_record", "_rows", "_spawn", "_verify"]
CONSOLE = Path(__file__).parent / "fetchmld" / "console"
NPM_MAX_S = 300


class BuildWithConsole(build_py):
    """Bundles the console first, so that its files are found as package data. Without Node the install goes on."""

    def run(self) -> None:
        try:
            bundle()
        except (OSError, subprocess.SubprocessError) as error:
            print(f"The web console was not built ({error}): the daemon's page will say so.", file=sys.stderr)
        super().run()


def bundle() -> None:
    """npm's packages by the lock file, then one script. Raises OSError without Node, CalledProcessError where it fails."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise FileNotFoundError("there is no Node.js with npm")
    wanted, installed = CONSOLE / "package-lock.json", CONSOLE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        subprocess.run([npm, "ci", "--silent"], cwd=CONSOLE, check=True, timeout=NPM_MAX_S)
    subprocess.run([node, "build.mjs"], cwd=CONSOLE, check=True, timeout=NPM_MAX_S)


setup(
    ext_modules=cythonize(
        [Extension(f"fetchmld.{name}", [f"fetchmld/{name}.pyx"], extra_compile_args=["-O2"]) for name in NATIVE],
        language_level=3,
    ),
    cmdclass={"build_py": BuildWithConsole},
)
