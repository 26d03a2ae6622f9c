"""What the engine's commands answer, in one line that says what to do."""

from __future__ import annotations

import pytest

from pytest_physics.fleet.command import EngineError, EngineSilentError, answer


@pytest.mark.parametrize(
    ("script", "timeout_s", "error", "message"),
    [
        (
            "echo 'fatal: Could not establish a configuration source' >&2; exit 1",
            30.0,
            EngineError,
            "belongs to no cluster .* --executor local",
        ),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", 30.0, EngineSilentError, "ask 'scontrol ping'"),
        ("echo 'invalid partition' >&2; exit 1", 30.0, EngineError, "'sh' refused: invalid partition"),
        ("sleep 5", 0.2, EngineSilentError, "did not answer within 0.2 s"),
    ],
)
def test_each_failure_has_its_line(script, timeout_s, error, message):
    """No cluster, a dead controller, a refusal, silence."""
    with pytest.raises(error, match=message):
        answer(["sh", "-c", script], timeout_s=timeout_s)


def test_a_program_that_is_not_there_is_named():
    """The way out is named with it."""
    with pytest.raises(EngineError, match=r"'no-such-program' is not installed here.*--executor local"):
        answer(["no-such-program"], timeout_s=1.0)
