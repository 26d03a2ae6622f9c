"""What the engine's commands answer, in one line that says what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_physics.errors import RecordError
from pytest_physics.fleet.command import EngineError, EngineSilentError, answer
from pytest_physics.fleet.executor import executor_of
from pytest_physics.fleet.folder import Jobs
from pytest_physics.fleet.slurm import task_names


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


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("12_3", ["12_3"]),
        ("12_[0]", ["12_0"]),
        ("12_[0,2-4%2]", ["12_0", "12_2", "12_3", "12_4"]),
        ("12_[0-8:4,9,...]", ["12_0", "12_4", "12_8", "12_9"]),
    ],
)
def test_one_line_of_sacct_may_hold_many_tasks(listed, names):
    """Tasks of an array that ended before they began stand in one line, as spans, with a step or a limit, cut short where they are many."""
    assert task_names(listed) == names


def test_an_engine_that_nobody_knows_is_named(made_fleet):
    """``jobs.json`` of another version, or edited."""
    folder = made_fleet()
    folder.write_jobs(Jobs(engine="k8s"))
    with pytest.raises(RecordError, match=r"names the engine 'k8s'; there are slurm and local"):
        executor_of(folder)


LOADED = "import sys; {code}; print(*[name for name in {names!r} if name in sys.modules])"


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import pytest_physics.fleet.job", ("pydantic", "numpy", "yaml", "typer")),
        ("import pytest_physics.fleet.submit", ("numpy", "scipy", "pytest_physics.record.schema")),
        ("from pytest_physics.fleet.executor import executor_of; import pytest_physics.fleet.slurm", ("numpy", "scipy")),
        (
            "from pytest_physics.fleet import merge; merge.defer('scipy', merge.SELDOM); import pytest_physics.fleet.page",
            ("matplotlib", "scipy.stats", "scipy.signal", "scipy.optimize", "scipy.interpolate"),
        ),
    ],
    ids=["a task", "submit", "status and cancel", "merge"],
)
def test_nothing_is_loaded_that_a_verb_does_not_need(code, names):
    """Each task and each verb pays for its imports before it does anything, and a task does so beside the measurement."""
    command = [sys.executable, "-c", LOADED.format(code=code, names=names)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.split() == []


def test_what_was_deferred_loads_when_it_is_used():
    """By attribute and by import alike."""
    code = (
        "from pytest_physics.fleet.merge import defer; defer('scipy', ['stats', 'signal']); from scipy import stats; import sys\n"
        "assert 'scipy.stats' not in sys.modules\n"
        "from scipy.signal import detrend\n"
        "print(stats.norm.cdf(0.0), detrend.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["0.5", "detrend"]
