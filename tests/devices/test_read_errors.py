"""Error codes of reads in words."""

from __future__ import annotations

import pytest

from pytest_physics.devices.base import OS_ERROR_BASE, describe_error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (15, "the GPU is lost (code 15)"),
        (999, "an unknown error (code 999)"),
        (77, "an error (code 77)"),
        (OS_ERROR_BASE + 13, "EACCES (code 1013)"),
        (OS_ERROR_BASE + 60000, "an error of the system (code 61000)"),
    ],
)
def test_every_code_has_words_and_its_number(code, words):
    """NVML's codes below 1000, errno above it; an unknown one keeps its number."""
    assert describe_error(code) == words
