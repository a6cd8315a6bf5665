"""``pytest tests/gpu`` on a machine with CUDA: what run.py checks, as tests."""

from __future__ import annotations

import gpu_checks as checks
import pytest


@pytest.mark.parametrize("case", checks.CASES, ids=str)
def test_gsplat_draws_as_the_cpu_kernel(case):
    checks.check_rasterization(case)


def test_words_are_learned_as_on_a_cpu():
    checks.check_words()


def test_splats_follow_an_edit_as_on_a_cpu():
    checks.check_edit()


def test_the_demo_ends_as_on_a_cpu(tmp_path):
    checks.check_demo(tmp_path)


def test_a_stopped_splat_fit_goes_on(tmp_path):
    checks.check_resume(tmp_path)
