"""Builds the kernels in C++ where a compiler is there, and leaves them out where not. All else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Extension(
    "trustsnn.kernels._native",
    ["trustsnn/kernels/native.cpp"],
    depends=[str(path) for path in Path("trustsnn/kernels").glob("*.h")],
    extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off", "-Wno-psabi"],
    language="c++",
    optional=True,
)


class BuildWherePossible(build_ext):
    """As setuptools' own, but an optional extension that did not compile is not among the files to install either."""

    def run(self):
        super().run()
        self.extensions = [e for e in self.extensions if Path(self.get_ext_fullpath(e.name)).exists()]


setup(ext_modules=[KERNELS], cmdclass={"build_ext": BuildWherePossible})
