"""Markers ``needs`` and ``energy_budget``, and the fixtures behind them, on the twin."""

from __future__ import annotations

import pytest

BUDGET = "@pytest.mark.energy_budget({})\ndef test_x(rig):\n    rig.gpu.sleep(1.0)\n"


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        ("'cpu'", "this rig has no 'cpu' (it has gpu); choose one with --physics-device"),
        ("'cpu.energy_j'", "this rig has no 'cpu' (it has gpu)"),
        ("'gpu.power_w', 'gpu.foreign_cpu_ns'", "instrument 'gpu' cannot read 'foreign_cpu_ns'"),
        ("'gpu.memory_temperature_c'", "instrument 'gpu' cannot read 'memory_temperature_c'"),
    ],
)
def test_a_missing_channel_or_instrument_makes_not_tested(project, channels, reason):
    """Skipped with the device's own reason; the test's body does not run."""
    result = project.run_test(
        f"@pytest.mark.needs({channels})\n@pytest.mark.claim(id='x')\ndef test_x(rig, judge):\n    raise ValueError\n"
    )
    assert result.ret == 0
    assert result.parseoutcomes() == {"skipped": 1}
    (claim,) = project.claims
    assert claim["verdict"] == "NOT_TESTED"
    assert reason in claim["reason"]


def test_channels_that_are_there_let_the_test_run(project):
    """Silent on a rig that has them; several markers add up."""
    result = project.run_test(
        "@pytest.mark.needs('gpu')\n@pytest.mark.needs('gpu.power_w', 'gpu.energy_j')\ndef test_x(judge):\n    judge(joules(1.0) <= HIGH)\n"
    )
    assert result.parseoutcomes() == {"passed": 1}


def test_a_missing_instrument_in_a_test_or_a_fixture_makes_not_tested(project):
    """Whoever asks for what the rig has not is skipped with the reason, wherever it is asked for."""
    result = project.run_test(
        """
@pytest.fixture(scope="session")
def load(rig):
    return rig.cpu
def test_in_fixture(load, judge):
    judge(joules(1.0) <= HIGH)
def test_in_fixture_again(load, judge):
    judge(joules(1.0) <= HIGH)
def test_in_body(rig, judge):
    judge(rig.cpu.baseline() <= HIGH)
"""
    )
    assert result.parseoutcomes() == {"skipped": 3}
    assert set(project.verdicts.values()) == {"NOT_TESTED"}
    assert len(project.verdicts) == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("", "needs() names no channel"),
        ("'gpu.power'", "there is no channel 'gpu.power' (did you mean 'gpu.power_w'?)"),
        ("'gpuu'", "there is no channel 'gpuu' (did you mean 'gpu'?)"),
        ("5", "there is no channel 5"),
        ("channel='gpu'", "needs() got an unexpected keyword argument 'channel'"),
    ],
)
def test_a_misspelt_channel_is_a_usage_error(project, arguments, problem):
    """Not a claim that is silently never tested."""
    result = project.run_test(f"@pytest.mark.needs({arguments})\ndef test_x():\n    pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: test_it.py::test_x: {problem}" in result.stderr.str()
    assert "write @pytest.mark.needs('gpu.power_w')" in result.stderr.str()
    assert project.runs == []


def test_an_energy_budget_is_judged(project):
    """The twin idles at about 20 W: one second fits 100 J and not 1 J; the record names the limit in joules."""
    assert project.run_test(BUDGET.format(100)).ret == 0
    (claim,) = project.claims
    assert (claim["verdict"], claim["limit"], claim["operator"]) == ("VALIDATED", 100.0, "<=")
    assert claim["estimate"]["unit"] == "J"
    assert claim["estimate"]["provenance"] == "simulated"


def test_an_energy_budget_is_refuted(project):
    """More than the budget fails the test, with the numbers."""
    result = project.run_test(BUDGET.format("joules=1.0, instrument='gpu'"))
    assert result.ret == 1
    assert project.verdicts == {"it.x": "REFUTED"}
    result.stdout.fnmatch_lines(["*RefutedClaim: REFUTED: x*", "*estimate *J*", "*claimed *<= 1 J*"])


def test_a_net_budget_leaves_the_idle_energy_out(project):
    """An idle second costs nothing net; its gross energy is beyond the same budget."""
    text = BUDGET.format("0.5, net=True") + BUDGET.format("0.5").replace("test_x", "test_gross")
    project.run_test(text.replace("(rig)", "(rig, idle_baseline)"))
    assert project.verdicts["it.gross"] == "REFUTED"
    net = next(claim for claim in project.claims if claim["id"] == "it.x")
    assert net["estimate"]["value"] == pytest.approx(net["truth"], abs=net["estimate"]["expanded"])
    assert abs(net["estimate"]["value"]) < 0.5


def test_a_budget_completes_a_claim(project):
    """Statement and id come from the claim marker; the budget is what is judged."""
    project.run_test("@pytest.mark.claim('Idling is cheap', id='idle')\n" + BUDGET.format(100))
    (claim,) = project.claims
    assert (claim["id"], claim["statement"], claim["verdict"]) == ("idle", "Idling is cheap", "VALIDATED")


def test_a_budget_for_a_missing_instrument_is_not_tested(project):
    """The rig of this run has no CPU."""
    result = project.run_test(BUDGET.format("5, instrument='cpu'"))
    assert result.parseoutcomes() == {"skipped": 1}
    assert project.verdicts == {"it.x": "NOT_TESTED"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("", "energy_budget() missing 1 required positional argument: 'joules'"),
        ("0", "'joules' must be > 0 and finite (got 0)"),
        ("-1.0", "'joules' must be > 0 and finite (got -1.0)"),
        ("float('nan')", "'joules' must be > 0 and finite (got nan)"),
        ("float('inf')", "'joules' must be > 0 and finite (got inf)"),
        ("'5 J'", "'joules' must be a number (got '5 J')"),
        ("joules=True", "'joules' must be a number (got True)"),
        ("5, net='yes'", "'net' must be True or False (got 'yes')"),
        ("5, 'gpu'", "energy_budget() takes 1 positional argument but 2 were given"),
        ("5, instrument='gpi'", "there is no instrument 'gpi' (did you mean 'gpu'?); choose one of gpu, cpu"),
        ("watts=5", "energy_budget() got an unexpected keyword argument 'watts'"),
    ],
)
def test_wrong_budgets_are_usage_errors_that_name_the_test(project, arguments, problem):
    """At collection, with the right way to write it."""
    result = project.run_test(BUDGET.format(arguments))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: test_it.py::test_x: {problem}; write @pytest.mark.energy_budget(joules=5.0)" in result.stderr.str()
    assert project.runs == []


def test_the_smallest_budget_is_accepted(project):
    """The other side of the boundary: any positive number is a budget."""
    assert project.run_test(BUDGET.format("5e-324")).ret == 1


def test_fixtures_hand_out_the_parts_of_the_run(project):
    """One rig, one baseline, one sensor for the session."""
    result = project.run_test(
        """
seen = []
def test_one(rig, idle_baseline, sensor, judge):
    seen.append((rig, idle_baseline, sensor))
    assert idle_baseline.n > 8
    assert sensor.model.update_period_s > 0
    judge(joules(1.0) <= HIGH)
def test_two(rig, idle_baseline, sensor, judge):
    assert all(a is b for a, b in zip(seen[0], (rig, idle_baseline, sensor)))
    assert rig.gpu is rig["gpu"] and "cpu" not in rig
    judge(joules(1.0) <= HIGH)
"""
    )
    assert result.parseoutcomes() == {"passed": 2}
