"""Builds the native modules; everything else about the package is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = ["_fastqueue", "_record", "_rows", "_spawn", "_verify"]

setup(
    ext_modules=cythonize(
        [Extension(f"fetchmld.{name}", [f"fetchmld/{name}.pyx"], extra_compile_args=["-O2"]) for name in NATIVE],
        language_level=3,
    )
)
