"""The regression verdict: each of the five words, and what forbids one."""

from __future__ import annotations

import pytest
from history.history_runs import STEADY, TEST

from pytest_physics.config import HistorySettings
from pytest_physics.errors import RecordError
from pytest_physics.history.build import add_runs
from pytest_physics.history.check import check
from pytest_physics.history.store import HistoryIndex
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.uncertainty import Estimate

SETTINGS = HistorySettings()


def checked(nights, *paths, settings=SETTINGS, **options):
    with HistoryIndex.open(nights.index) as history:
        return check(history, paths, settings, **options)


def only(found):
    (item,) = found.judged
    return item


@pytest.mark.parametrize(
    ("value", "verdict", "exit_code"),
    [
        (100.0, Verdict.VALIDATED, 0),
        (90.0, Verdict.VALIDATED, 0),
        (105.0, Verdict.INCONCLUSIVE, 10),
        (110.0, Verdict.REFUTED, 1),
    ],
)
def test_verdict_follows_from_the_interval(steady, value, verdict, exit_code):
    """No worse by more than 5 %: shown, refuted, or not told; an improvement is no regression."""
    found = checked(steady, steady.run(value))
    assert (only(found).verdict, found.exit_code) == (verdict, exit_code)


def test_known_answer(steady):
    """The interval is the textbook's prediction interval where runs have no error of their own."""
    import statistics

    from scipy import stats

    item = only(checked(steady, steady.run(103.0)))
    mean, s, n = statistics.mean(STEADY), statistics.stdev(STEADY), len(STEADY)
    assert item.change.value == pytest.approx(103.0 / mean - 1)
    assert item.change.expanded == pytest.approx(stats.t.ppf(0.975, n - 1) * s * (1 + 1 / n) ** 0.5 / mean)


def test_fall_is_worse_where_more_is_better(nights):
    """Tokens per second get worse when they fall."""
    settings = HistorySettings(higher_is_better=("toy: *",))
    nights.history(STEADY)
    assert only(checked(nights, nights.run(90.0), settings=settings)).verdict is Verdict.REFUTED
    assert only(checked(nights, nights.run(110.0), settings=settings)).verdict is Verdict.VALIDATED


def test_metric_without_a_direction_is_left_out(nights):
    """What is neither cost nor rate is not judged unless the settings say which way is worse."""

    def record(session):
        session.result("toy", "temperature", Estimate.given(50.0, "°C", u=0.1))

    add_runs(nights.index, [nights.run(record=record) for _ in range(6)])
    found = checked(nights, nights.run(record=record))
    assert (found.judged, found.left_out, found.exit_code) == ((), 1, 10)


@pytest.mark.parametrize(
    ("n", "verdict"), [(4, Verdict.INVALID), (5, Verdict.INCONCLUSIVE), (10, Verdict.INCONCLUSIVE), (11, Verdict.VALIDATED)]
)
def test_few_runs_cannot_speak_and_ten_cannot_accept(nights, n, verdict):
    """Below five INVALID; VALIDATED needs ten degrees of freedom, as every claim."""
    nights.history(STEADY[:n])
    item = only(checked(nights, nights.run(100.0)))
    assert item.verdict is verdict
    if verdict is Verdict.INVALID:
        assert item.because == "4 valid earlier runs under equal conditions (needed: 5)"


def test_empty_history_is_invalid(nights):
    """An index without a run says nothing."""
    add_runs(nights.index, [nights.run(1.0, end="interrupted")])
    assert only(checked(nights, nights.run(1.0))).verdict is Verdict.INVALID


def test_run_is_never_compared_with_itself_or_with_later_ones(steady):
    """A check of an indexed run gives the same as before it was added."""
    path = steady.run(100.0)
    before = only(checked(steady, path))
    later = [steady.run(200.0) for _ in range(3)]
    add_runs(steady.index, [path, *later])
    after = only(checked(steady, path))
    assert (after.change.value, len(after.points)) == (before.change.value, len(STEADY))


def test_only_the_last_runs_count(nights):
    """A level of long ago is not compared with."""
    nights.history([50.0] * 6 + STEADY)
    item = only(checked(nights, nights.run(100.0), settings=HistorySettings(last=12)))
    assert item.verdict is Verdict.VALIDATED
    assert [point.value for point in item.points] == STEADY


def test_accepted_change_is_left_behind_with_since(nights):
    """``since`` names the first run of the new level; the note about the change point names it."""
    paths = nights.history([0.9 * v for v in STEADY] + STEADY)
    path = nights.run(100.0)
    mixed = only(checked(nights, path, settings=HistorySettings(last=24)))
    assert any(paths[12].name in note for note in mixed.notes)
    with HistoryIndex.open(nights.index) as history:
        since = history.start_of(paths[12].name)
    fresh = only(checked(nights, path, since_ms=since))
    assert (len(fresh.points), fresh.notes) == (12, ())


# --- conditions ---------------------------------------------------------------------------------------------------------------


def test_other_device_is_not_compared_with_and_named(nights):
    """Another specimen is another series; the reason names what differs."""
    nights.history(STEADY[:6], device={"preset": "rtx4080-laptop", "seed": 0})
    item = only(checked(nights, nights.run(100.0, device={"preset": "rtx4080-laptop", "seed": 1})))
    assert item.verdict is Verdict.INVALID
    assert "conditions differ from those of 6 other valid runs (gpu." in item.because


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"suite": {**dict.fromkeys(["bench/conftest.py"], "new"), "bench/test_toy.py": "0123456789abcdef"}},
            "bench/conftest.py: new here",
        ),
        ({"overrides": {"experiment": {"repetitions": 20}}}, "settings.experiment.repetitions: 20 here, 12 there"),
    ],
)
def test_other_suite_or_settings_are_not_compared_with(nights, change, named):
    """What a value depends on must be equal."""
    nights.history(STEADY[:6])
    item = only(checked(nights, nights.run(100.0, **change)))
    assert item.verdict is Verdict.INVALID
    assert named in item.because


@pytest.mark.parametrize(
    "change",
    [
        {"suite": {"bench/test_toy.py": "0123456789abcdef", "bench/conftest.py": "fedcba9876543210", "bench/test_other.py": "changed"}},
        {"overrides": {"history": {"delta": 0.02}}},
        {"overrides": {"claims": {"correction": "holm"}}},
        {"overrides": {"runs": "elsewhere"}},
    ],
)
def test_what_does_not_touch_a_value_does_not_part_a_series(nights, change):
    """Another test's file, where runs lie and how they are judged."""
    nights.history(STEADY[:6])
    assert len(only(checked(nights, nights.run(100.0, **change))).points) == 6


def test_setting_that_a_later_version_brought_agrees_with_its_default(nights):
    """An upgrade does not end every history; a value that is not the default does."""
    from dataclasses import replace

    from pytest_physics.history.entries import agree, read_entry

    (value,) = read_entry(nights.run(1.0)).values
    older = value.conditions.settings.replace('"repetitions":12,', "")
    assert older != value.conditions.settings
    assert agree(value.conditions, replace(value.conditions, settings=older))
    other = value.conditions.settings.replace('"repetitions":12,', '"repetitions":13,')
    assert not agree(replace(value.conditions, settings=other), replace(value.conditions, settings=older))


# --- the new run --------------------------------------------------------------------------------------------------------------


def test_run_that_does_not_verify_is_invalid(steady):
    """An edited run is not judged by its numbers."""
    path = steady.run(100.0)
    (path / "windows.jsonl").write_text("x\n")
    item = only(checked(steady, path))
    assert item.verdict is Verdict.INVALID
    assert item.because.startswith("verify: ")


def test_incomplete_run_cannot_be_judged(steady):
    """It has no numbers that count; the message says why."""
    with pytest.raises(RecordError, match="incomplete: interrupted"):
        checked(steady, steady.run(100.0, end="interrupted"))


def test_corrupt_run_cannot_be_judged(steady):
    """Nothing of it can be trusted."""
    path = steady.run(100.0)
    (path / "results.jsonl").write_text("x\n")
    with pytest.raises(RecordError, match="manifest"):
        checked(steady, path)


def test_repeats_are_judged_together(steady):
    """Two repeats halve what one run's scatter leaves open."""
    paths = [steady.run(103.0), steady.run(103.4)]
    strict = HistorySettings(delta=0.0)
    one, two = only(checked(steady, paths[0], settings=strict)), only(checked(steady, *paths, settings=strict))
    assert two.value == pytest.approx(103.2)
    assert two.change.expanded < one.change.expanded
    assert two.verdict is Verdict.REFUTED


def test_inconclusive_says_how_many_runs_would_settle_it(steady):
    """Planned from the scatter: so many, given together, do settle it; near the limit no number does, and it says what else helps."""
    strict = HistorySettings(delta=0.0)
    first = steady.run(101.5)
    alone = only(checked(steady, first, settings=strict))
    assert alone.verdict is Verdict.INCONCLUSIVE
    assert "if the change is what it looks like, 5 more new runs would settle it nine times in ten" in alone.because
    assert "history check RUN RUN2" in alone.because
    others = [steady.run(101.5 + off) for off in (-0.9, 0.9, -0.5, 0.5, 0.0)]
    assert only(checked(steady, first, *others, settings=strict)).verdict is Verdict.REFUTED
    near = only(checked(steady, steady.run(105.0)))
    assert "even 20 new runs would not settle it: allow more (delta)" in near.because
    assert "settle" not in only(checked(steady, steady.run(100.0))).because


def test_too_few_earlier_runs_are_made_up_for_by_new_ones(nights):
    """Ten earlier runs and one new are nine degrees of freedom; the second new run is the tenth."""
    nights.history(STEADY[:10])
    path = nights.run(100.0)
    assert "1 more new run would settle it" in only(checked(nights, path)).because
    assert only(checked(nights, path, nights.run(100.2))).verdict is Verdict.VALIDATED


def test_same_run_twice_is_no_repeat(steady):
    """A run is not independent of itself."""
    path = steady.run(100.0)
    with pytest.raises(RecordError, match="given twice"):
        checked(steady, path, path)


def test_repeats_under_different_conditions_are_refused(steady):
    """A mean of different things is nothing."""
    item = only(checked(steady, steady.run(100.0), steady.run(100.0, overrides={"experiment": {"repetitions": 20}})))
    assert item.verdict is Verdict.INVALID
    assert "repeats ran under different conditions (settings.experiment.repetitions" in item.because


def test_mean_near_zero_has_no_relative_change(nights):
    """What scatters around 0 is INVALID, with what to do, and not infinitely worse."""
    nights.history([v - 99.9 for v in STEADY])
    item = only(checked(nights, nights.run(0.1)))
    assert item.verdict is Verdict.INVALID
    assert "of the mean of the earlier ones (limit 25%)" in item.because


def test_runs_that_all_agree_leave_no_room(nights):
    """Counts without any scatter: equal is validated, more than δ is refuted."""
    nights.history([64.0] * 11)
    assert only(checked(nights, nights.run(64.0))).verdict is Verdict.VALIDATED
    assert only(checked(nights, nights.run(68.0))).verdict is Verdict.REFUTED


def test_holm_keeps_a_chance_alarm_among_many_from_standing(nights):
    """One alarm of thirty metrics is INCONCLUSIVE together where it would be REFUTED alone."""

    def record(session, odd=0.0):
        for i in range(30):
            value = STEADY[(session.path.name.__hash__() + 5 * i) % len(STEADY)] if not odd else 100.0
            session.result("toy", f"energy {i}", Estimate.given(value + (odd if i == 7 else 0.0), "J", u=0.0))

    rng = iter(range(1000))

    def night(session):
        turn = next(rng)
        for i in range(30):
            session.result("toy", f"energy {i}", Estimate.given(STEADY[(turn + 5 * i) % len(STEADY)], "J", u=0.0))

    add_runs(nights.index, [nights.run(record=night) for _ in range(12)])
    path = nights.run(record=lambda session: record(session, odd=2.2))
    strict = HistorySettings(delta=0.0)
    alone, together = checked(nights, path, settings=strict), checked(nights, path, settings=strict, correction="holm")
    assert alone.counts[Verdict.REFUTED] == 1
    assert together.counts[Verdict.REFUTED] == 0
    large = nights.run(record=lambda session: record(session, odd=9.0))
    assert checked(nights, large, settings=strict, correction="holm").counts[Verdict.REFUTED] == 1


def test_values_of_one_name_in_one_run_are_told_apart(nights):
    """The slope of a second soak is a metric of its own."""

    def record(session):
        for value in (1.0, 2.0):
            session.result("toy", "energy", Estimate.given(value, "J", u=0.0))

    add_runs(nights.index, [nights.run(record=record)])
    with HistoryIndex.open(nights.index) as history:
        assert history.metrics() == ["toy: energy", "toy: energy #2"]


def test_test_file_is_found_by_the_node_id():
    """Whatever directory pytest was started in; of all files where it is not known."""
    from pytest_physics.history.entries import suite_part

    suite = {"../bench/test_toy.py": "a", "../bench/conftest.py": "b", "../bench/test_other.py": "c"}
    assert suite_part(suite, TEST.partition("::")[0]) == {"../bench/test_toy.py": "a", "../bench/conftest.py": "b"}
    assert suite_part(suite, "") == suite
