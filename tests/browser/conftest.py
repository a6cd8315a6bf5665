"""Browser tests are slow: they run when they are asked for by name."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of runs that do not name it."""
    asked = any("browser" in str(argument) for argument in config.invocation_params.args)
    return None if asked else True
