"""The compiled parts, optional: the package also installs where there is no C compiler. pyproject.toml has the rest."""

import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent


def extension(name: str, *sources: str) -> Extension:
    """A C library of ``invert3d_ns``, for every Python from 3.10 on; neighboring headers count as its dependencies."""
    headers = [str(h.relative_to(ROOT)) for s in sources for h in sorted((ROOT / s).parent.glob("*.h"))]
    flags = ["-std=gnu11", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
    posix = sys.platform != "win32"
    return Extension(
        f"invert3d_ns.{name}",
        sources=list(sources),
        depends=headers,
        define_macros=[("Py_LIMITED_API", "0x030A0000")],
        py_limited_api=True,
        optional=True,
        extra_compile_args=flags if posix else [],
        extra_link_args=["-pthread"] if posix else [],
    )


setup(
    ext_modules=[
        extension("scenes.rasterization._kernel", "invert3d_ns/scenes/rasterization/csrc/kernel.c"),
        extension("world._sdf", "invert3d_ns/world/csrc/sdf.c"),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
