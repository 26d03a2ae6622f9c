"""The active run: what the plugin does with ``--physics``.

A run's session, the fixtures that it hands out, and what pytest is told of verdicts (:mod:`~pytest_physics.outcomes`). The exit code is 10
where nothing was refuted but something could not be measured. A verdict stands, whether its test catches the error, skips itself, is
expected to fail, or is run again by another plugin.
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import pytest

from pytest_physics.claims import Judge, explain, verdict_error, worst_of
from pytest_physics.config import Settings, load_settings
from pytest_physics.errors import (
    ChannelUnavailableError,
    InconclusiveMeasurement,
    InvalidMeasurement,
    PhysicsError,
    RefutedClaim,
)
from pytest_physics.instrument import LONGEST_NAME, Instrument, Window, outermost_work
from pytest_physics.markers import claim_of, energy_budget_of, is_claim, needed_channels, read_markers, vram_budget_of
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.uncertainty import Comparison, Estimate, Recipe, truth_value_judge
from pytest_physics.outcomes import (
    SOFT_VERDICTS,
    ended_by_verdict,
    in_sight_of_the_user,
    properties,
    show_verdict,
    standing_error,
    told_by_unittest,
)
from pytest_physics.record.correction import last_attempts
from pytest_physics.record.job import requirement
from pytest_physics.record.schema import BaselineRecord, ClaimRecord, state_after
from pytest_physics.record.suite import suite_of
from pytest_physics.session import Plan, Session

if TYPE_CHECKING:
    from pytest_physics.experiments.heat_soak import HeatSoak
    from pytest_physics.experiments.instrument_response import InstrumentResponse
    from pytest_physics.vram import VRAMMonitor
    from pytest_physics.workloads.base import Kernel

EXIT_UNMEASURED = 10
"""Exit code where nothing failed and nothing was refuted, but something was INVALID or INCONCLUSIVE."""

BYTES_PER_GIB = 2**30

JUDGE = pytest.StashKey[Judge]()
SUBTESTS = pytest.StashKey[list[BaseException]]()
"""What ended subtests of the running test early: a subtest's error is caught, and its test goes on."""


class ActiveRun:
    """Per-test hooks and the life of one :class:`Session`; registered only with ``--physics``."""

    def __init__(self, config: pytest.Config, settings: Settings, plan: Plan) -> None:
        self.config = config
        self.settings = settings
        self.plan = plan
        self.report: Path | None = None
        self._session: Session | None = None
        self._idle_baseline: BaselineRecord | None = None
        self._heat_soak: HeatSoak | None = None
        self._soft_failures: list[pytest.TestReport] = []
        self._judged_reports: dict[str, pytest.TestReport] = {}
        """Reports of tests whose claims an interval decided, by node id: looked at again where all claims are judged together."""
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._sensor: InstrumentResponse | None = None
        self._monitors: dict[str, VRAMMonitor] = {}

    @classmethod
    def from_config(cls, config: pytest.Config) -> ActiveRun:
        """Read the settings and decide on the devices; wrong use is a ``UsageError`` that says what to do."""
        refuse_parallel(config)
        refuse_blind_reruns(config)
        file: str | None = config.getoption("physics_config")
        options: dict[str, Any] = {
            "file": Path(file) if file else None,
            "profile": config.getoption("physics_profile"),
            "overrides": {name: config.getoption(f"physics_{name}") for name in ("device", "runs")}
            | {"claims": {"correction": correction} if (correction := config.getoption("physics_correction")) else None},
            "fallbacks": {name: config.getini(f"physics_{name}") or None for name in ("device", "profile", "runs")},
        }
        try:
            settings = load_settings(config.rootpath, **options)
            plan = Plan.of(settings)
            if plan.virtual_time:
                settings = load_settings(config.rootpath, virtual_time=True, **options)
        except PhysicsError as error:
            raise pytest.UsageError(str(error)) from None
        run = cls(config, settings, plan)
        run._require_history()
        return run

    def _require_history(self) -> None:
        """An index that cannot be used is refused before hours of measuring; none yet is a history without runs."""
        if self._history is None:
            return
        from pytest_physics.history.compare import require_index

        try:
            self._notes += filter(None, [require_index(self._history)])
        except PhysicsError as error:
            raise pytest.UsageError(str(error)) from None

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
        options = session.config.option
        will_run = session.items and not options.collectonly and (options.continue_on_collection_errors or not session.testsfailed)
        if will_run:
            try:
                self._session = Session.start(
                    self.settings, self.plan, command=["pytest", *map(str, self.config.invocation_params.args)],
                    directory=Path(self.config.invocation_params.dir), suite=self._suite(session),
                )  # fmt: skip
            except PhysicsError as error:
                raise pytest.UsageError(str(error)) from None
        with ended_by_sigterm() as finalising:
            try:
                return (yield)
            finally:
                finalising()
                if self._session is not None:
                    self._finish(self._session, _end_reason(session, sys.exception()))

    def _suite(self, session: pytest.Session) -> dict[str, str]:
        """Digests of the test files and of every conftest that was loaded for them."""
        plugins = (getattr(plugin, "__file__", None) for plugin in self.config.pluginmanager.get_plugins())
        conftests = [Path(file) for file in plugins if file and Path(file).name == "conftest.py"]
        return suite_of([*(item.path for item in session.items), *conftests], Path(self.config.invocation_params.dir))

    def _finish(self, run: Session, reason: str) -> None:
        """Complete the run; whatever goes wrong here is said, and costs neither the run nor the claim table."""
        self._compare_with_history(run, reason)
        try:
            from pytest_physics.report.build import build_report  # matplotlib loads when the measuring is over

            self.report = run.finish(reason, publish=build_report)
        except Exception as error:  # noqa: BLE001 -- see above
            what = str(error) if isinstance(error, PhysicsError) else f"{type(error).__name__}: {error}"
            self._problems.append(f"{what} (the run may lack its report; 'pytest-physics report {run.path}' builds it again)")
        for instrument in run.instruments.values():
            unended = (f"window '{name}' of '{instrument.name}'" for name in instrument.begun)
            self._notes += [f"{window} was begun and never ended: it is not recorded" for window in unended]
        self._report_corrected(run.claims)
        self.config.hook.pytest_physics_run_finished(config=self.config, run=run.path, report=self.report)

    @property
    def _history(self) -> Path | None:
        """The index of earlier runs to compare with; None where that was not asked for."""
        asked = self.config.getoption("physics_compare")
        return Path(self.config.invocation_params.dir) / self.settings.history.index if asked else None

    def _compare_with_history(self, run: Session, reason: str) -> None:
        """Claim of every metric that it is no worse than in earlier runs, and report each verdict like a test's."""
        if self._history is None:
            return
        if state_after(reason) != "completed":
            self._notes.append(f"not compared with earlier runs: the run did not end by itself ({reason})")
            return
        from pytest_physics.history.compare import compare_run

        try:
            records = compare_run(run, self._history)
        except Exception as error:  # noqa: BLE001 -- as in _finish: what was measured must not be lost
            self._problems.append(f"not compared with earlier runs: {error if isinstance(error, PhysicsError) else repr(error)}")
            return
        for record in records:
            self._report_judged(record)

    def _report_judged(self, record: ClaimRecord) -> None:
        """Report a claim that no test judged, as if one had."""
        ended = verdict_error(record)
        file, _, name = record.test.partition("::")
        report = pytest.TestReport(
            nodeid=record.test, location=(file, None, name), keywords={}, outcome="failed" if ended else "passed",
            longrepr=str(ended) if ended else None, when="call", user_properties=properties(record),
        )  # fmt: skip
        show_verdict(report, ended)
        if record.conformance is not None:
            self._judged_reports[record.test] = report
        self.config.hook.pytest_physics_claim_judged(config=self.config, claim=record)
        self.config.hook.pytest_runtest_logreport(report=report)

    def _report_corrected(self, claims: Sequence[ClaimRecord]) -> None:
        """Report tests anew whose verdict changed when all claims were judged together: the terminal, JUnit and ``--lf`` must see it."""
        changed = {
            claim.test for claim in claims if claim.correction is not None and claim.correction.verdict is not claim.correction.judged
        }
        for node_id in [known for known in self._judged_reports if known in changed]:
            worst = worst_of([claim for claim in last_attempts(claims) if claim.test == node_id])
            error = verdict_error(worst) if worst else None
            earlier = self._judged_reports[node_id]
            if worst is None or error is None or (earlier.failed and worst.verdict is Verdict.REFUTED):
                continue
            self._withdraw(earlier)
            report = pytest.TestReport(
                nodeid=node_id, location=earlier.location, keywords=earlier.keywords, outcome="failed", longrepr=str(error), when="call",
                user_properties=[*earlier.user_properties, *properties(worst)],
            )  # fmt: skip
            show_verdict(report, error)
            self.config.hook.pytest_runtest_logreport(report=report)

    def _withdraw(self, report: pytest.TestReport) -> None:
        """Take a report out of the counts: another takes its place."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        for reports in reporter.stats.values() if reporter is not None else ():
            reports[:] = [known for known in reports if known is not report]
        self._soft_failures = [known for known in self._soft_failures if known is not report]
        session = self.config.pluginmanager.get_plugin("session")
        if report.failed and isinstance(session, pytest.Session):
            session.testsfailed -= 1

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Turn "only unmeasured claims" into exit code 10."""
        only_unmeasured = self._soft_failures and session.testsfailed == len(self._soft_failures)
        if self._problems and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif only_unmeasured and not self._problems and exitstatus == pytest.ExitCode.TESTS_FAILED:
            session.exitstatus = EXIT_UNMEASURED

    # --- fixtures ----------------------------------------------------------------------------------------------------

    def sensor(self) -> InstrumentResponse:
        """The GPU's power sensor, identified once."""
        from pytest_physics.experiments.instrument_response import known_sensor
        from pytest_physics.workloads.select import steady_load_for

        gpu = self.session.rig.gpu
        gpu.require("power_w")
        if self._sensor is None:
            try:
                load: Kernel | None = steady_load_for(gpu.device)
            except PhysicsError as error:
                load = None
                self._notes.append(f"the power sensor cannot be identified, what is known of it is used: {error}")
            self._sensor = known_sensor(gpu, self.session, load)
        return self._sensor

    def idle_baseline(self) -> BaselineRecord:
        """Baseline of the GPU, measured once; its gates belong to the fixture of that name."""
        if self._idle_baseline is None:
            self.session.rig.gpu.require("power_w")
            self._idle_baseline = self.session.rig.gpu.baseline()
        return self._idle_baseline

    def heat_soak(self) -> HeatSoak:
        """Soak the GPU now; claims need the latest soak, because what came in between has let the device cool."""
        from pytest_physics.experiments.heat_soak import run_heat_soak
        from pytest_physics.workloads.select import steady_load_for

        gpu = self.session.rig.gpu
        self._heat_soak = run_heat_soak(gpu, self.session, steady_load_for(gpu.device), progress=self._progress())
        return self._heat_soak

    def vram(self, instrument: str | None = None) -> VRAMMonitor:
        """The memory monitor of an instrument, made once; default: of the device under test."""
        from pytest_physics.vram import monitor_for

        rig = self.session.rig
        name = instrument or ("gpu" if "gpu" in rig else "cpu")
        if name not in self._monitors:
            self._monitors[name] = monitor_for(rig[name], self.session)
        return self._monitors[name]

    def judge_of(self, item: pytest.Item) -> Judge:
        """The judge of a test, made on first use."""
        if JUDGE not in item.stash:
            item.stash[JUDGE] = Judge(book=self.session, claim=claim_of(item), requirements=lambda: self._requirements(item))
        return item.stash[JUDGE]

    def _requirements(self, item: pytest.Item) -> Sequence[Recipe]:
        """What the test's fixtures, direct or through other fixtures, stand for."""
        needed = "heat_soaked" in getattr(item, "fixturenames", ())
        job = (requirement(),) if self.session.job is not None else ()
        return (*job, *((self._heat_soak.requirement,) if needed and self._heat_soak else ()))

    def _progress(self) -> Callable[[str], None] | None:
        """A writer for progress lines on a terminal; None in CI and under capture to a file."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not reporter.isatty:
            return None
        return lambda line: reporter.rewrite(line, erase=True)

    # --- one test ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Read all markers before anything is deselected, so that ids do not depend on ``-k``."""
        read_markers(items)
        if self.config.pluginmanager.hasplugin("rerunfailures"):
            refuse_flaky_claims(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Check the needed channels; a missing one makes the claim NOT_TESTED."""
        self.session.test = item.nodeid
        earlier = item.stash.get(JUDGE, None)
        if earlier is not None:  # some plugin runs the item again
            refuse_second_judgement(earlier)
            del item.stash[JUDGE]
        with self._verdict_errors(item):
            for name in needed_channels(item):
                self.session.rig.require(name)
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge bare comparisons and energy budgets; a claim that judged nothing is INVALID."""
        judge = self.judge_of(item)
        token = truth_value_judge.set(partial(_judged_true, judge))
        subtests = item.stash[SUBTESTS] = []
        try:
            with (
                self._verdict_errors(item),
                self._energy_budget(item, judge),
                self._vram_budget(item, judge),
                told_by_unittest(item) as told,
            ):
                result = yield
                ended = [*told, *(error for error in subtests if not isinstance(error, pytest.skip.Exception))]
                if is_claim(item) and ended:
                    raise ended[0]
            if is_claim(item) and not judge.records:
                _unjudged(judge, subtests)
        finally:
            truth_value_judge.reset(token)
            del item.stash[SUBTESTS]
        judge.settle()
        return result

    @contextmanager
    def _verdict_errors(self, item: pytest.Item) -> Generator[None]:
        """Record how a claim ends when an error ends its test before it was judged."""
        judge = self.judge_of(item)
        try:
            yield
        except ChannelUnavailableError as error:
            judge.not_tested(str(error))
            pytest.skip(f"NOT_TESTED: {error}")
        except (pytest.skip.Exception, SkipTest) as skipped:
            if is_claim(item):
                judge.not_tested(str(skipped))
            raise
        except (RefutedClaim, InvalidMeasurement, InconclusiveMeasurement) as error:
            if not judge.records:
                judge.invalid(str(error))
            raise
        except (Exception, pytest.fail.Exception) as error:
            if is_claim(item):
                judge.invalid(f"the test raised {type(error).__name__} before it was through: {error}")
            raise

    @contextmanager
    def _energy_budget(self, item: pytest.Item, judge: Judge) -> Generator[None]:
        budget = energy_budget_of(item)
        if budget is None:
            yield
            return
        instrument = self.session.rig[budget.instrument]
        self.session.counted.clear()
        earlier = len(instrument.windows)
        with instrument.window(item.name[:LONGEST_NAME]) as window:
            try:
                yield
            finally:
                window.work = _work_of_test(instrument, earlier, self.session.counted)
        if budget.per:
            _require_counted(window, budget.per, judge)
        energy = window.per(budget.per) if budget.per else window.energy
        judge((energy.net if budget.net else energy.gross) <= budget.joules)

    @contextmanager
    def _vram_budget(self, item: pytest.Item, judge: Judge) -> Generator[None]:
        budget = vram_budget_of(item)
        if budget is None:
            yield
            return
        with self.vram(budget.instrument).watch(item.name) as watch:
            yield
        judge(watch.peak / Estimate.exact(BYTES_PER_GIB, "byte/GiB") <= budget.gib)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the report say what was judged, in plain Python values (JUnit, xdist's format), and carry its verdict."""
        report = yield
        judge = item.stash.get(JUDGE, None)
        fresh = judge.news() if judge is not None else []
        error = call.excinfo.value if call.excinfo is not None else None
        if error is not None and SUBTESTS in item.stash:  # the test still runs: this is the report of a part of it
            item.stash[SUBTESTS].append(error)
        for record in fresh:
            item.user_properties.extend(properties(record))
            item.ihook.pytest_physics_claim_judged(config=self.config, claim=record)
        report.user_properties = list(item.user_properties)
        report.sections.extend(("physics", text) for text in map(explain, fresh) if text != str(error))
        show_verdict(report, standing_error(report, fresh) or error)
        if any(record.conformance is not None for record in fresh) and ended_by_verdict(report, error):
            self._judged_reports[item.nodeid] = report
        verdict = isinstance(error, (RefutedClaim, InvalidMeasurement, InconclusiveMeasurement))
        if call.excinfo is not None and verdict and report.failed and not in_sight_of_the_user(call.excinfo, item):
            report.longrepr = f"{type(error).__name__}: {error}"  # judged after the test: its traceback would show this package only
        if isinstance(getattr(error, "__context__", None), ChannelUnavailableError) and report.skipped:
            file, line = item.reportinfo()[:2]
            report.longrepr = (str(file), (line or 0) + 1, str(error))  # where the test stands, not where it was skipped
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Letters I and ? for what could not be measured."""
        verdict = getattr(report, "physics_verdict", None)
        return SOFT_VERDICTS.get(verdict) if verdict and report.outcome == "failed" else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what decides the exit code; attempts that are run again do not."""
        if report.outcome == "failed" and hasattr(report, "physics_verdict"):
            self._soft_failures.append(report)

    # --- terminal ----------------------------------------------------------------------------------------------------

    def pytest_report_header(self) -> list[str]:
        """What is measured, and what is simulated and why."""
        corrected = "" if self.settings.claims.correction == "none" else "; all claims judged together at the end (Holm)"
        return [f"physics: profile {self.settings.profile}; {self.plan.header}{corrected}", *self.plan.banner]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 -- pytest's class is private
        """The claim table, why claims could not be measured, and where the report is."""
        from pytest_physics.report.terminal import claim_lines

        if self._session is None:
            return
        write = terminalreporter.write_line
        terminalreporter.section("physics")
        for line in self.plan.banner:
            write(line, yellow=True)
        for name, instrument in self._session.instruments.items():  # the cause, before what came of it
            if error := instrument.sampler.status.error:
                write(f"the sampler of '{name}' failed: {error.rstrip('.')}. What came after it was not seen.", red=True)
        for report in self._soft_failures:  # pytest's own sections show only its own category
            write(report.nodeid, yellow=True)
            for line in report.physics_explanation.splitlines():
                write(f"  {line}")
        width = shutil.get_terminal_size().columns
        for line in claim_lines(
            self._session.claims, results=self._session.results, width=width, correction=self.settings.claims.correction
        ):
            write(line)
        for note in self._notes:
            write(f"note: {note}", yellow=True)
        for problem in self._problems:
            write(f"problem: {problem}", red=True)
        write(f"run:    {self._session.path}")
        write(f"report: {self.report or 'not written'}", bold=True)


def _work_of_test(instrument: Instrument, earlier: int, counted: Mapping[str, float]) -> dict[str, float]:
    """Work counted in a test: by the windows of ``instrument`` after the first ``earlier`` ones, and by ``rig.count``."""
    found = outermost_work(islice(instrument.windows.values(), earlier, None))
    return {kind: found.get(kind, 0.0) + counted.get(kind, 0.0) for kind in (*found, *counted)}


def _require_counted(window: Window, unit: str, judge: Judge) -> None:
    """Energy per nothing is no energy: without counted work the claim is INVALID."""
    kinds = (unit, f"{unit}s")
    if any(window.work.get(kind, 0.0) > 0 for kind in kinds):
        return
    shown = ", ".join(f"{kind}={amount:g}" for kind, amount in window.work.items()) or "nothing"
    judge.invalid(
        f"energy per {unit} is not defined: the test counted {shown}. Count the {unit}s where they are made, with "
        f"rig.count({kinds[1]}=…) or in windows of its instrument: rig.gpu.window(…, {kinds[1]}=…)"
    )
    judge.settle()


def _unjudged(judge: Judge, skipped: Sequence[BaseException]) -> None:
    """A claim that judged nothing is INVALID; NOT_TESTED where its subtests were skipped."""
    if skipped:
        judge.not_tested(str(skipped[0]))
        raise skipped[0]
    judge.invalid("the test judged no comparison; call judge(estimate <= limit)")


def refuse_second_judgement(earlier: Judge) -> None:
    """Only an INVALID claim may be measured again; for any other attempt that failed, its verdict stands."""
    worst = worst_of(earlier.records)
    if worst is not None and worst.verdict is not Verdict.INVALID:
        earlier.settle()


def _judged_true(judge: Judge, comparison: Comparison) -> bool:
    __tracebackhide__ = True
    return judge(comparison).verdict is Verdict.VALIDATED


class Terminated(KeyboardInterrupt):
    """SIGTERM: a scheduler's limit or a cancelled job. pytest ends as on Ctrl-C, and the run is finalised."""


@contextmanager
def ended_by_sigterm() -> Generator[Callable[[], None]]:
    """Turn the first SIGTERM into :class:`Terminated`, and ignore it once the function that this gives was called.

    From then on the run is finalised, which the signal must not disturb. A handler of others is kept.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ended = False

    def end(number: int, frame: object) -> None:  # noqa: ARG001 -- the shape of a signal handler
        nonlocal ended
        ended = True
        finalising()
        raise Terminated("ended by SIGTERM")

    def finalising() -> None:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield finalising
    finally:
        if ours and not ended:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_reason(session: pytest.Session, error: BaseException | None) -> str:
    """Why the tests ended, in words."""
    if isinstance(error, Terminated):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    stopped = session.shouldfail or session.shouldstop
    if stopped:
        return f"stopped: {stopped}"
    return "finished" if error is None else f"{type(error).__name__}: {error}"


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
    reruns = _setting(config, "force_reruns") or _setting(config, "reruns")
    only = _setting(config, "only_rerun") or []
    if str(reruns or 0) != "0" and list(only) != [InvalidMeasurement.__name__]:
        raise pytest.UsageError(
            f"--physics with --reruns re-runs only what could not be measured: add --only-rerun {InvalidMeasurement.__name__}. "
            "Every attempt is recorded."
        )


def refuse_flaky_claims(items: Sequence[pytest.Item]) -> None:
    """As :func:`refuse_blind_reruns`, for the marker of a claim; only what asks for a verdict itself is known to be one before it runs."""
    for item in items:
        marker = item.get_closest_marker("flaky") if is_claim(item) else None
        if marker is None or 0 in (*marker.args[:1], marker.kwargs.get("reruns")):
            continue
        only = marker.kwargs.get("only_rerun", _setting(item.config, "only_rerun") or [])
        names = [only] if isinstance(only, (str, type)) else list(only)
        if names not in ([InvalidMeasurement], [InvalidMeasurement.__name__]):
            raise pytest.UsageError(
                f"{item.nodeid}: the marker 'flaky' would measure a claim again until it holds; add only_rerun="
                f"'{InvalidMeasurement.__name__}' to it, which runs again only what could not be measured, or take it away"
            )


def _setting(config: pytest.Config, name: str) -> Any:  # noqa: ANN401 -- another plugin's option
    """Value of another plugin's option or ini key; None where the plugin is absent."""
    value = getattr(config.option, name, None)
    try:
        return config.getini(name) if value is None else value
    except (KeyError, ValueError):
        return None
