"""The active run: what the plugin does with ``--physics``.

Outcomes follow one rule: REFUTED is a failed test; INVALID and INCONCLUSIVE are failed reports with a category and a letter of their own, so
that ``-x``, ``--lf``, JUnit, xdist's report format and pytest-html all see them; NOT_TESTED is skipped with its reason. The exit code is 10
where nothing was refuted but something could not be measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_physics.claims import ClaimStatement, Judge, slug
from pytest_physics.config import Settings, load_settings
from pytest_physics.errors import (
    ChannelUnavailableError,
    InconclusiveMeasurement,
    InvalidMeasurement,
    PhysicsError,
    RefutedClaim,
)
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.uncertainty import Comparison, Recipe, truth_value_judge
from pytest_physics.record.schema import BaselineRecord, ClaimRecord
from pytest_physics.session import Plan, Session

if TYPE_CHECKING:
    from pytest_physics.experiments.heat_soak import HeatSoak

EXIT_UNMEASURED = 10
"""Exit code where nothing failed and nothing was refuted, but something was INVALID or INCONCLUSIVE."""

JUDGE = pytest.StashKey[Judge]()

SOFT_VERDICTS = {
    "invalid": ("invalid", "I", ("INVALID", {"yellow": True})),
    "inconclusive": ("inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})),
}


class ActiveRun:
    """Per-test hooks and the life of one :class:`Session`; registered only with ``--physics``."""

    def __init__(self, config: pytest.Config, settings: Settings, plan: Plan) -> None:
        self.config = config
        self.settings = settings
        self.plan = plan
        self.report: Path | None = None
        self.end_reason = "finished"
        self._session: Session | None = None
        self._idle_baseline: BaselineRecord | None = None
        self._heat_soak: HeatSoak | None = None
        self._hard_failures = 0
        self._soft_failures: list[pytest.TestReport] = []
        self._problems: list[str] = []

    @classmethod
    def from_config(cls, config: pytest.Config) -> ActiveRun:
        """Read the settings and decide on the devices; wrong use is a ``UsageError`` that says what to do."""
        refuse_parallel(config)
        refuse_blind_reruns(config)
        file: str | None = config.getoption("physics_config")
        overrides = {
            "device": config.getoption("physics_device") or config.getini("physics_device"),
            "runs": config.getoption("physics_runs") or config.getini("physics_runs"),
        }
        profile = config.getoption("physics_profile") or config.getini("physics_profile") or None
        options: dict[str, Any] = {"file": Path(file) if file else None, "overrides": overrides, "profile": profile}
        try:
            settings = load_settings(config.rootpath, **options)
            plan = Plan.of(settings)
            if plan.virtual_time:
                settings = load_settings(config.rootpath, virtual_time=True, **options)
        except PhysicsError as error:
            raise pytest.UsageError(str(error)) from None
        return cls(config, settings, plan)

    # --- the run -----------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The run in progress; fixtures need one."""
        if self._session is None:
            raise pytest.UsageError("the physics run has not started; fixtures of pytest-physics work only inside tests")
        return self._session

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Start the run after collection, so that a collection error leaves no run behind."""
        if session.items and not session.config.option.collectonly and not session.testsfailed:
            try:
                self._session = Session.start(
                    self.settings, self.plan, command=["pytest", *map(str, self.config.invocation_params.args)],
                    directory=Path(self.config.invocation_params.dir),
                )  # fmt: skip
            except PhysicsError as error:
                raise pytest.UsageError(str(error)) from None
        try:
            return (yield)
        finally:
            self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        from pytest_physics.report.build import build_report  # matplotlib loads when the measuring is over

        if self._session is None:
            return
        if isinstance(sys.exception(), KeyboardInterrupt):
            self.end_reason = "interrupted"
        elif session.shouldfail or session.shouldstop:
            self.end_reason = f"stopped: {session.shouldfail or session.shouldstop}"
        try:
            self.report = self._session.finish(self.end_reason, publish=build_report)
        except PhysicsError as error:
            self._problems.append(str(error))
        self.config.hook.pytest_physics_run_finished(config=self.config, run=self._session.path, report=self.report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Turn "only unmeasured claims" into exit code 10."""
        unmeasured = exitstatus == pytest.ExitCode.TESTS_FAILED and self._soft_failures and not self._hard_failures
        if unmeasured and not self._problems:
            session.exitstatus = EXIT_UNMEASURED
        elif self._problems and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    # --- fixtures ----------------------------------------------------------------------------------------------------

    def idle_baseline(self) -> BaselineRecord:
        """Baseline of the GPU, measured once; its gates belong to the fixture of that name."""
        if self._idle_baseline is None:
            self.session.rig.gpu.require("power_w")
            self._idle_baseline = self.session.rig.gpu.baseline()
        return self._idle_baseline

    def heat_soak(self) -> HeatSoak:
        """Heat soak of the GPU, done once."""
        from pytest_physics.experiments.heat_soak import run_heat_soak
        from pytest_physics.workloads.select import steady_load_for

        if self._heat_soak is None:
            self._heat_soak = run_heat_soak(
                self.session.rig.gpu, self.session, steady_load_for(self.session.rig.gpu.device), progress=self._progress()
            )
        return self._heat_soak

    def judge_of(self, item: pytest.Item) -> Judge:
        """The judge of a test, made on first use."""
        if JUDGE not in item.stash:
            item.stash[JUDGE] = Judge(book=self.session, claim=claim_of(item), requirements=lambda: self._requirements(item))
        return item.stash[JUDGE]

    def _requirements(self, item: pytest.Item) -> Sequence[Recipe]:
        """What the test's fixtures, direct or through other fixtures, stand for."""
        soaked = "heat_soaked" in getattr(item, "fixturenames", ()) and self._heat_soak is not None
        return (self._heat_soak.requirement,) if soaked and self._heat_soak else ()

    def _progress(self) -> Callable[[str], None] | None:
        """A writer for progress lines on a terminal; None in CI and under capture to a file."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not reporter.isatty:
            return None
        return lambda line: reporter.rewrite(line, erase=True)

    # --- one test ----------------------------------------------------------------------------------------------------

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse misspelt markers and claim ids that are not unique at collection, not in the middle of a run."""
        owners: dict[str, str] = {}
        for item in items:
            claim = claim_of(item)
            for marker in item.iter_markers("energy_budget"):
                energy_budget_arguments(marker, item)
            other = owners.setdefault(claim.id, item.nodeid)
            if other != item.nodeid and item.get_closest_marker("claim"):
                raise pytest.UsageError(
                    f"claim id '{claim.id}' of {item.nodeid} is already used by {other}; give one of them id=… in its claim marker"
                )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Check the needed channels; a missing one makes the claim NOT_TESTED."""
        self.session.test = item.nodeid
        if JUDGE in item.stash:  # a re-run of the same item judges anew
            del item.stash[JUDGE]
        with self._verdict_errors(item):
            for marker in item.iter_markers("needs"):
                for name in marker.args:
                    self.session.rig.require(name)
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge bare comparisons and energy budgets; a claim that judged nothing is INVALID."""
        judge = self.judge_of(item)
        token = truth_value_judge.set(lambda comparison: _judged_true(judge, comparison))
        try:
            with self._verdict_errors(item), self._energy_budget(item, judge):
                result = yield
            if item.get_closest_marker("claim") and not judge.records:
                raise InvalidMeasurement(judge.invalid("the test judged no comparison; call judge(estimate <= limit)").reason)
            return result
        finally:
            truth_value_judge.reset(token)

    @contextmanager
    def _verdict_errors(self, item: pytest.Item) -> Generator[None]:
        """Record how a claim ends when an error ends its test before it was judged."""
        judge = self.judge_of(item)
        try:
            yield
        except ChannelUnavailableError as error:
            judge.not_tested(str(error))
            pytest.skip(f"NOT_TESTED: {error}")
        except pytest.skip.Exception as skipped:
            if item.get_closest_marker("claim"):
                judge.not_tested(str(skipped.msg))
            raise
        except (RefutedClaim, InvalidMeasurement, InconclusiveMeasurement) as error:
            if not judge.records:
                judge.invalid(str(error))
            raise
        except Exception as error:
            if item.get_closest_marker("claim") and not judge.records:
                judge.invalid(f"the test raised {type(error).__name__} before anything was judged: {error}")
            raise

    @contextmanager
    def _energy_budget(self, item: pytest.Item, judge: Judge) -> Generator[None]:
        marker = item.get_closest_marker("energy_budget")
        if marker is None:
            yield
            return
        joules, instrument_name, net = energy_budget_arguments(marker, item)
        instrument = self.session.rig[instrument_name]
        with instrument.window(item.name) as window:
            yield
        energy = window.energy.net if net else window.energy.gross
        judge(energy <= joules)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Mark the report with its verdict and attach what was judged, in plain Python values (xdist, JUnit)."""
        report = yield
        error = call.excinfo.value if call.excinfo is not None else None
        if isinstance(error, InvalidMeasurement):
            report.physics_verdict = "invalid"  # type: ignore[attr-defined]
        elif isinstance(error, InconclusiveMeasurement):
            report.physics_verdict = "inconclusive"  # type: ignore[attr-defined]
        judge = item.stash.get(JUDGE, None)
        if judge is not None and judge.records and call.when == "call":
            for record in judge.records:
                report.user_properties.extend(properties(record))
                self.config.hook.pytest_physics_claim_judged(config=self.config, claim=record)
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Letters I and ? for what could not be measured."""
        verdict = getattr(report, "physics_verdict", None)
        return SOFT_VERDICTS.get(verdict) if verdict and report.outcome == "failed" else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what decides the exit code; re-run attempts do not."""
        if report.outcome != "failed":
            return
        if getattr(report, "physics_verdict", None):
            self._soft_failures.append(report)
        else:
            self._hard_failures += 1

    # --- terminal ----------------------------------------------------------------------------------------------------

    def pytest_report_header(self) -> str:
        """What is measured, and what is simulated and why."""
        return f"physics: profile {self.settings.profile}; {self.plan.header}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 -- pytest's class is private
        """The claim table, why claims could not be measured, and where the report is."""
        from pytest_physics.report.terminal import claim_lines

        if self._session is None:
            return
        write = terminalreporter.write_line
        terminalreporter.section("physics")
        for line in self.plan.banner:
            write(line, yellow=True)
        for report in self._soft_failures:
            write(f"{report.physics_verdict.upper()} {report.nodeid}", yellow=True)  # type: ignore[attr-defined]
            for line in str(report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else report.longrepr).splitlines():  # type: ignore[union-attr]
                write(f"  {line}")
        for line in claim_lines(self._session.claims, width=terminalreporter._tw.fullwidth):  # noqa: SLF001 -- no public width
            write(line)
        for problem in self._problems:
            write(f"problem: {problem}", red=True)
        write(f"run:    {self._session.path}")
        write(f"report: {self.report or 'not written'}", bold=True)


def _judged_true(judge: Judge, comparison: Comparison) -> bool:
    return judge(comparison).verdict is Verdict.VALIDATED


def properties(record: ClaimRecord) -> list[tuple[str, str | float | int | bool]]:
    """JUnit properties of a judged claim: plain Python values only."""
    out: list[tuple[str, str | float | int | bool]] = [
        ("physics_claim", record.id),
        ("physics_verdict", record.verdict.value),
        ("physics_attempt", record.attempt),
    ]
    if record.estimate is not None:
        numbers = {"estimate": record.estimate.value, "expanded_uncertainty": record.estimate.expanded, "limit": record.limit}
        out.extend((f"physics_{name}", value) for name, value in numbers.items() if value is not None)
        out.append(("physics_unit", record.estimate.unit))
        out.append(("physics_quality", record.estimate.quality))
        out.append(("physics_provenance", record.estimate.provenance))
    return out


def claim_of(item: pytest.Item) -> ClaimStatement:
    """Statement, id and prerequisites from the claim marker; without one, from the docstring and the name."""
    marker = item.get_closest_marker("claim")
    arguments = _claim_arguments(marker, item) if marker else {}
    documentation = (getattr(getattr(item, "obj", None), "__doc__", None) or "").strip().partition("\n")[0]
    file, line, _ = item.location
    return ClaimStatement(
        id=arguments.get("id") or slug(item.nodeid),
        statement=arguments.get("statement") or documentation or item.name.removeprefix("test_").replace("_", " "),
        test=item.nodeid,
        source=f"{file}:{(line or 0) + 1}",
        requires=tuple(arguments.get("requires") or ()),
    )


def _claim_arguments(marker: pytest.Mark, item: pytest.Item) -> dict[str, Any]:
    def claim(
        statement: str | None = None, *, id: str | None = None, requires: Sequence[str] = ()  # noqa: A002 -- reads best in the marker
    ) -> dict[str, Any]:
        return {"statement": statement, "id": id, "requires": [requires] if isinstance(requires, str) else requires}

    try:
        return claim(*marker.args, **marker.kwargs)
    except TypeError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}; write @pytest.mark.claim('statement', id='…', requires=['…'])") from None


def energy_budget_arguments(marker: pytest.Mark, item: pytest.Item) -> tuple[float, str, bool]:
    """Budget in joules, instrument and net flag of an ``energy_budget`` marker."""

    def energy_budget(joules: float, *, instrument: str = "gpu", net: bool = False) -> tuple[float, str, bool]:
        if not float(joules) > 0:
            raise TypeError(f"'joules' must be > 0 (got {joules})")
        return float(joules), instrument, net

    try:
        return energy_budget(*marker.args, **marker.kwargs)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}; write @pytest.mark.energy_budget(joules=5.0)") from None


def refuse_parallel(config: pytest.Config) -> None:
    """A measurement needs its machine alone."""
    option = config.option
    if getattr(option, "numprocesses", None) or getattr(option, "dist", "no") != "no" or hasattr(config, "workerinput"):
        raise pytest.UsageError(
            "--physics needs the machine to itself: parallel tests heat, throttle and time each other. "
            "Run it with -n0 (or without -n), and parallel tests in a run of their own."
        )


def refuse_blind_reruns(config: pytest.Config) -> None:
    """Re-running a refuted claim until it passes is not a measurement; re-running an invalid one is."""
    reruns = getattr(config.option, "reruns", None)
    only = getattr(config.option, "only_rerun", None) or []
    if reruns and list(only) != [InvalidMeasurement.__name__]:
        raise pytest.UsageError(
            f"--physics with --reruns re-runs only what could not be measured: add --only-rerun {InvalidMeasurement.__name__}. "
            "Every attempt is recorded."
        )
