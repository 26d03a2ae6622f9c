"""How a verdict becomes an outcome of pytest: a report's category and letter, and its properties in JUnit.

REFUTED is a failed test; INVALID and INCONCLUSIVE are failed reports with a category and a letter of their own, so that ``-x``, ``--lf``,
JUnit, xdist's report format and pytest-html all see them; NOT_TESTED is skipped with its reason (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_physics.claims import verdict_error, worst_of
from pytest_physics.errors import InconclusiveMeasurement, InvalidMeasurement, RefutedClaim
from pytest_physics.record.schema import ClaimRecord

SOFT_VERDICTS = {
    "invalid": ("invalid", "I", ("INVALID", {"yellow": True})),
    "inconclusive": ("inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})),
}
"""Category, letter and word of what could not be measured, as ``pytest_report_teststatus`` gives them."""


REPORTS = ("addError", "addFailure", "addSkip", "addExpectedFailure")
"""How ``unittest`` tells the result of a test that it did not pass; under pytest that result is the item."""


@contextmanager
def told_by_unittest(item: pytest.Item) -> Generator[list[BaseException]]:
    """What a ``unittest.TestCase`` tells its result and does not raise, while it runs; pytest itself looks at it only afterwards."""
    told: list[BaseException] = []

    def listen(tell: Callable[..., object], test: object, problem: Any, *rest: object) -> None:  # noqa: ANN401 -- a text, a tuple, or Twisted's own
        if test is getattr(item, "instance", None):  # not one of its subtests
            told.append(pytest.skip.Exception(problem) if isinstance(problem, str) else getattr(problem, "value", None) or problem[1])
        tell(test, problem, *rest)

    heard = [name for name in REPORTS if hasattr(item, name)]
    for name in heard:
        setattr(item, name, partial(listen, getattr(item, name)))
    try:
        yield told
    finally:
        for name in heard:
            delattr(item, name)


def properties(record: ClaimRecord) -> list[tuple[str, str | float | int | bool]]:
    """JUnit properties of a judged claim: plain Python values only."""
    out: list[tuple[str, str | float | int | bool]] = [
        ("physics_claim", record.id),
        ("physics_verdict", record.verdict.value),
        ("physics_attempt", record.attempt),
        ("physics_statement", record.statement),
        ("physics_reason", record.reason),
    ]
    if record.estimate is not None:
        expanded = record.estimate.expanded if record.estimate.value is not None else None
        numbers = {"estimate": record.estimate.value, "expanded_uncertainty": expanded, "limit": record.limit}
        out.extend((f"physics_{name}", value) for name, value in numbers.items() if value is not None)
        out.append(("physics_unit", record.estimate.unit))
        out.append(("physics_quality", record.estimate.quality))
        out.append(("physics_provenance", record.estimate.provenance))
    return out


def standing_error(report: pytest.TestReport, fresh: Sequence[ClaimRecord]) -> Exception | None:
    """A verdict stands, whether its test was skipped or expected to fail: such a report becomes a failed one."""
    worst = worst_of(fresh)
    error = verdict_error(worst) if worst else None
    if error is None or report.failed:
        return None
    report.outcome = "failed"
    report.longrepr = str(error)
    vars(report).pop("wasxfail", None)
    return error


def ended_by_verdict(report: pytest.TestReport, error: BaseException | None) -> bool:
    """Whether a test passed, or failed for its verdict and for nothing else."""
    return (
        report.passed
        or isinstance(error, (RefutedClaim, InvalidMeasurement, InconclusiveMeasurement))
        or hasattr(report, "physics_verdict")
    )


def show_verdict(report: pytest.TestReport, error: BaseException | None) -> None:
    """Let a report carry the word of its verdict, where pytest has none for it."""
    word = {InvalidMeasurement: "invalid", InconclusiveMeasurement: "inconclusive"}.get(type(error))  # type: ignore[arg-type]
    if word is not None:
        report.physics_verdict = word  # type: ignore[attr-defined]
        report.physics_explanation = str(error)  # type: ignore[attr-defined]


def in_sight_of_the_user(error: pytest.ExceptionInfo[BaseException], item: pytest.Item) -> bool:
    """Whether the traceback passes through the test's own file."""
    return any(Path(str(entry.path)) == item.path for entry in error.traceback)
