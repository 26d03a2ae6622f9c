"""``energy_budget(joules=…, per="token")``: a budget for one unit of the work that the test counts."""

from __future__ import annotations

import pytest

TEST = """
@pytest.mark.energy_budget({arguments})
def test_decode(rig):
    {body}
"""


def run(project, body, arguments="joules=1.0, per='token'"):
    return project.run_test(TEST.format(arguments=arguments, body=body))


def test_tokens_are_counted_by_windows_inside_the_test(project):
    """A second of idling for 100 tokens is far below a joule each; the record is in joules per token and verifies."""
    assert run(project, "with rig.gpu.window('decode', tokens=100):\n        rig.gpu.sleep(1.0)").ret == 0
    (claim,) = project.claims
    assert (claim["verdict"], claim["limit"], claim["estimate"]["unit"]) == ("VALIDATED", 1.0, "J/token")
    assert claim["estimate"]["value"] == pytest.approx(claim["truth"], abs=claim["estimate"]["expanded"])
    assert claim["estimate"]["value"] < 0.5
    assert claim["statement"] == "decode takes at most 1 J per token (gross energy of 'gpu')"


def test_tokens_are_counted_by_the_rig(project):
    """Counts add up, also to those of windows."""
    body = "rig.count(tokens=60)\n    rig.count(tokens=30)\n    with rig.gpu.window('decode', tokens=10):\n        rig.gpu.sleep(1.0)"
    assert run(project, body).ret == 0
    from pytest_physics.record.reader import RunReader

    whole = RunReader(project.runs[0]).windows[-1]
    assert (whole.name, whole.work) == ("test_decode", {"tokens": 100.0})


def test_a_budget_per_token_is_refuted(project):
    """One second of idling for ten tokens is about 0.2 J each; the failure is short and says all of it."""
    result = run(project, "rig.count(tokens=10)\n    rig.gpu.sleep(1.0)", "joules=0.05, per='token'")
    assert result.ret == 1
    assert project.verdicts == {"it.decode": "REFUTED"}
    result.stdout.fnmatch_lines(
        ["RefutedClaim: REFUTED: decode takes at most 0.05 J per token*", "*estimate *J/token*", "*claimed *<= 0.05 J/token*"]
    )
    result.stdout.no_fnmatch_line("*active.py*")
    result.stdout.no_fnmatch_line("*contextlib.py*")


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ("rig.gpu.sleep(1.0)", "nothing"),
        ("rig.count(tokens=0)\n    rig.gpu.sleep(1.0)", "tokens=0"),
        ("rig.count(requests=3)\n    rig.gpu.sleep(1.0)", "requests=3"),
    ],
)
def test_energy_per_nothing_is_refused(project, body, counted):
    """Zero tokens make no energy per token: INVALID, with what was counted and where to count."""
    result = run(project, body)
    assert result.ret == 10
    (claim,) = project.claims
    assert claim["verdict"] == "INVALID"
    assert claim["reason"].startswith(f"energy per token is not defined: the test counted {counted}. Count the tokens where they are made")
    result.stdout.no_fnmatch_line("*active.py*")


def test_counts_belong_to_one_test(project):
    """What the test before counted is not this one's."""
    result = project.run_test(
        TEST.format(arguments="joules=9, per='token'", body="rig.count(tokens=50)\n    rig.gpu.sleep(1.0)")
        + TEST.format(arguments="joules=9, per='token'", body="rig.gpu.sleep(1.0)").replace("test_decode", "test_second")
    )
    assert project.verdicts == {"it.decode": "VALIDATED", "it.second": "INVALID"}
    assert result.ret == 10


def test_other_units_of_work(project):
    """Any counted work, by its name in the singular or as it was given."""
    assert run(project, "rig.count(requests=4)\n    rig.gpu.sleep(1.0)", "joules=9, per='request', net=False").ret == 0
    assert project.claims[0]["estimate"]["unit"] == "J/request"


def test_a_net_budget_per_token(project):
    """Idle energy is left out there too, and the statement says so."""
    run(project, "rig.count(tokens=10)\n    rig.gpu.sleep(1.0)", "joules=1.0, per='token', net=True")
    (claim,) = project.claims
    assert claim["statement"] == "decode takes at most 1 J per token (net energy of 'gpu')"
    assert abs(claim["estimate"]["value"]) < 0.5


@pytest.mark.parametrize("per", ["''", "5", "'J/token'"])
def test_a_unit_that_is_no_name_is_a_usage_error(project, per):
    """At collection, with the test's name."""
    result = run(project, "pass", f"joules=1.0, per={per}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "'per' must name counted work, such as 'token'" in result.stderr.str()


def test_wrong_counts_are_errors_where_they_are_made(project):
    """A count below zero or without a number ends the test at its line."""
    result = run(project, "rig.count(tokens=-1)")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*'tokens' must be a finite count >= 0 (got -1)*"])


def test_a_window_that_never_ends_is_said(project):
    """It is not recorded; the summary says so, and the run is complete."""
    result = run(project, "rig.gpu.begin_window('decode')\n    rig.count(tokens=100)\n    rig.gpu.sleep(1.0)")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["note: window 'decode' of 'gpu' was begun and never ended: it is not recorded"])


def test_a_test_that_says_its_claim_keeps_its_words(project):
    """The budget's own sentence stands only where neither marker nor docstring does."""
    project.run_test(
        "@pytest.mark.energy_budget(100, )\ndef test_documented(rig):\n    '''Idling is cheap.'''\n    rig.gpu.sleep(1.0)\n"
        "@pytest.mark.energy_budget(100)\ndef test_plain(rig):\n    rig.gpu.sleep(1.0)\n"
    )
    assert [claim["statement"] for claim in project.claims] == [
        "Idling is cheap.",
        "plain takes at most 100 J (gross energy of 'gpu')",
    ]
