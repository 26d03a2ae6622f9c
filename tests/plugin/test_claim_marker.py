"""What one test claims: statement, id, prerequisites; and that a verdict cannot be talked away."""

from __future__ import annotations

import pytest

from pytest_physics import Estimate
from pytest_physics.claims import MAX_SLUG, slug


def _by_id(project) -> dict[str, dict]:
    return {claim["id"]: claim for claim in project.claims}


def test_statement_id_and_place_stand_in_the_record(project):
    """The marker's text is the statement; file and line are the test's."""
    project.run_test("@pytest.mark.claim('A joule is little', id='little')\ndef test_x(judge):\n    judge(joules(1.0) <= HIGH)\n")
    (claim,) = project.claims
    assert (claim["id"], claim["statement"], claim["test"]) == ("little", "A joule is little", "test_it.py::test_x")
    assert claim["source"].startswith("test_it.py:")


@pytest.mark.parametrize(
    ("head", "statement"),
    [
        ("def test_it_is_small(judge):\n    '''It is small.\n\n    Because.'''", "It is small."),
        ("@pytest.mark.claim\ndef test_it_is_small(judge):\n    '''It is small.'''", "It is small."),
        ("@pytest.mark.claim('Small')\ndef test_it_is_small(judge):\n    '''It is small.'''", "Small"),
        ("@pytest.mark.claim()\ndef test_it_is_small(judge):", "it is small"),
        ("@pytest.mark.claim('Größe ≤ 2 J, „klein“')\ndef test_it_is_small(judge):", "Größe ≤ 2 J, „klein“"),
    ],
)
def test_without_a_statement_the_docstring_speaks_and_then_the_name(project, head, statement):
    """Marker text, first line of the docstring, name of the test, in this order."""
    result = project.run_test(f"{head}\n    judge(joules(1.0) <= HIGH)\n")
    assert result.ret == 0
    assert [claim["statement"] for claim in project.claims] == [statement]


def test_default_ids_are_unique_and_depend_on_the_node_id_alone(project):
    """Equal names in two files and two classes, parametrised, non-ASCII and very long ones: each has its own id, also when run alone."""
    body = "    judge(joules(1.0) <= HIGH)\n"
    text = (
        f"def test_x(judge):\n{body}\n"
        f"class TestA:\n    def test_x(self, judge):\n    {body}\n"
        f"@pytest.mark.parametrize('case', [8, 'ä', 'a-b', 'a_b', 'a/b', 'x' * 300, 'x' * 301, ''])\ndef test_y(judge, case):\n{body}\n"
        f"def test_größe(judge):\n{body}\n"
    )
    project.write(test_one=text, test_two=text)
    assert project.run().ret == 0
    ids = [claim["id"] for claim in project.claims]
    assert len(ids) == len(set(ids)) == 22
    assert {"one.x", "two.x", "one.TestA.x", "one.y-8", "one.größe"} <= set(ids)
    assert max(map(len, ids)) <= MAX_SLUG + 9

    assert project.run("-k", "TestA and test_one").ret == 0
    *_, last = project.runs
    assert '"one.TestA.x"' in (last / "claims.jsonl").read_text(encoding="utf-8")


def test_a_long_id_keeps_its_end_and_its_limit():
    """Boundary pair: 80 characters stay, 81 become a digest and the end."""
    assert slug("x" * MAX_SLUG) == "x" * MAX_SLUG
    longer = slug("x" * MAX_SLUG + "e")
    assert len(longer) == MAX_SLUG
    assert longer.endswith("xe")
    assert longer != slug("y" + "x" * (MAX_SLUG - 1) + "e")


def test_an_id_given_to_a_parametrised_test_is_completed_by_the_case(project):
    """One marker, three cases, three ids; an id given to one case stays as it is."""
    result = project.run_test(
        """
@pytest.mark.claim(id="gain")
@pytest.mark.parametrize("n", [1, 2, pytest.param(3, marks=pytest.mark.claim(id="special"))])
def test_gain(judge, n):
    judge(joules(1.0) <= HIGH)
"""
    )
    assert result.ret == 0
    assert set(project.verdicts) == {"gain-1", "gain-2", "special"}


def test_one_id_for_two_tests_is_refused(project):
    """Naming both; nothing has run."""
    one = "@pytest.mark.claim(id='same')\ndef test_{}(judge):\n    judge(joules(1.0) <= HIGH)\n"
    result = project.run_test(one.format("a") + one.format("b"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: claim id 'same' of test_it.py::test_b is already used by test_it.py::test_a; give*"])
    assert project.runs == []


def test_an_id_that_is_anothers_default_is_not_shared(project):
    """A given id keeps its name; the default one gives way."""
    result = project.run_test(
        "@pytest.mark.claim(id='it.b')\ndef test_a(judge):\n    judge(joules(1.0) <= HIGH)\n"
        "def test_b(judge):\n    judge(joules(1.0) <= HIGH)\n"
    )
    assert result.ret == 0
    first, second = (claim["id"] for claim in project.claims)
    assert first == "it.b"
    assert second.startswith("it.b-")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("'x', requirs=['a']", "*unexpected keyword argument 'requirs'"),
        ("'x', 'y'", "*takes from 0 to 1 positional arguments but 2 were given"),
        ("5", "'statement' must be a text (got 5)"),
        ("'x', id=''", "'id' must be a text (got '')"),
        ("'x', id='a#2'", "'id' must not contain '#'*"),
        ("'x', requires=5", "'requires' must be the id of a claim, or several (got 5)"),
        ("'x', requires=[None]", "'requires' must be a text (got None)"),
        (r"'\ud800'", r"'statement' is not valid text; use characters that UTF-8 can write (got '\ud800')"),
        (r"'x', id='\ud800'", "'id' is not valid text; *"),
        (r"'x', requires=['\ud800']", "'requires' is not valid text; *"),
    ],
)
def test_wrong_arguments_are_usage_errors_that_name_the_test(project, arguments, problem):
    """At collection, before anything is measured, with the right way to write it."""
    result = project.run_test(f"@pytest.mark.claim({arguments})\ndef test_x(judge):\n    judge(joules(1.0) <= HIGH)\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    expected = problem.replace("[", "[[]")
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_x: {expected}; write @pytest.mark.claim('statement', id=*"])
    assert project.runs == []


def test_a_docstring_that_no_file_can_hold_is_shown_with_question_marks(project):
    """It was not written for a record, so it refuses nothing."""
    assert project.run_test("def test_x(judge):\n    '\\ud800 small'\n    judge(joules(1.0) <= HIGH)\n").ret == 0
    assert project.claims[0]["statement"] == "? small"


TWICE = {
    "claim": ("claim('a')", "claim('b')"),
    "energy_budget": ("energy_budget(5)", "energy_budget(6)"),
    "vram_budget": ("vram_budget(5)", "vram_budget(6)"),
}


@pytest.mark.parametrize("kind", TWICE)
@pytest.mark.parametrize(
    "text",
    [
        "@pytest.mark.{0}\n@pytest.mark.{1}\ndef test_x(judge):\n    pass\n",
        "@pytest.mark.{0}\n@pytest.mark.{1}\nclass TestA:\n    def test_x(self, judge):\n        pass\n",
        "pytestmark = [pytest.mark.{0}, pytest.mark.{1}]\ndef test_x(judge):\n    pass\n",
        "@pytest.mark.parametrize('n', [pytest.param(1, marks=[pytest.mark.{0}, pytest.mark.{1}])])\ndef test_x(judge, n):\n    pass\n",
    ],
)
def test_two_markers_of_a_kind_in_one_place_are_refused(project, kind, text):
    """One of them would be passed over without a word."""
    result = project.run_test(text.format(*TWICE[kind]))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::*test_x*: 2 markers '{kind}' in one place*; keep one, and make a test of its own*"])
    assert project.runs == []


def test_the_nearest_marker_of_a_kind_counts(project):
    """A case over its function, a function over its class, a class over its base, a class over its module."""
    result = project.run_test(
        """
pytestmark = [pytest.mark.claim("module"), pytest.mark.energy_budget(1000)]
def test_module(rig):
    rig.gpu.sleep(1.0)
@pytest.mark.claim("base")
@pytest.mark.energy_budget(2000)
class TestBase:
    def test_base(self, rig):
        rig.gpu.sleep(1.0)
@pytest.mark.claim("derived")
@pytest.mark.energy_budget(3000)
class TestDerived(TestBase):
    @pytest.mark.claim("function")
    @pytest.mark.energy_budget(4000)
    @pytest.mark.parametrize("n", [1, pytest.param(2, marks=[pytest.mark.claim("case"), pytest.mark.energy_budget(5000)])])
    def test_n(self, rig, n):
        rig.gpu.sleep(1.0)
"""
    )
    assert result.ret == 0
    assert {(claim["test"].partition("::")[2], claim["statement"], claim["limit"]) for claim in project.claims} == {
        ("test_module", "module", 1000.0), ("TestBase::test_base", "base", 2000.0), ("TestDerived::test_base", "derived", 3000.0),
        ("TestDerived::test_n[1]", "function", 4000.0), ("TestDerived::test_n[2]", "case", 5000.0),
    }  # fmt: skip


def test_equal_files_in_two_folders_get_ids_with_a_digest(project):
    """What an id leaves out must not make two claims one."""
    for folder in ("a", "b"):
        (project.path / folder).mkdir()
        (project.path / folder / "__init__.py").touch()
        test = "from pytest_physics import Estimate\ndef test_x(judge):\n    judge(Estimate.exact(1.0) <= 2.0)\n"
        (project.path / folder / "test_same.py").write_text(test, encoding="utf-8")
    assert project.run().ret == 0
    assert len(project.verdicts) == 2
    assert all(name.startswith("same.x-") for name in project.verdicts)


# --- judging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["@pytest.mark.claim('x')\ndef test_x():", "def test_x(judge):"])
def test_a_claim_that_judges_nothing_is_invalid(project, head):
    """Whoever marks a claim, or asks for the judge, must let something be judged."""
    result = project.run_test(f"{head}\n    pass\n")
    assert result.ret == 10
    (claim,) = project.claims
    assert claim["verdict"] == "INVALID"
    assert claim["reason"].startswith("the test judged no comparison")


@pytest.mark.parametrize(
    ("statement", "code", "shown"),
    [
        ("raise ValueError('my own')", 1, "E*ValueError: my own"),
        ("pytest.fail('by hand')", 1, "E*Failed: by hand"),
        ("assert 1 == 2", 1, "E*assert 1 == 2"),
        ("judge(5.0)", 1, "E*TypeError: judge() takes a comparison of an estimate*"),
        ("judge(True)", 1, "E*TypeError: judge() takes a comparison of an estimate*"),
    ],
)
@pytest.mark.parametrize("before", ["pass", "judge(joules(1.0) <= HIGH)"])
def test_a_claim_whose_test_raises_is_invalid_and_fails_with_its_own_error(project, before, statement, code, shown):
    """The measurement ended too early to speak, also after a first comparison that held; the user's error is what is shown."""
    result = project.run_test(f"@pytest.mark.claim('x', id='x')\ndef test_x(judge):\n    {before}\n    {statement}\n")
    assert result.ret == code
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines([shown])
    last = project.claims[-1]
    assert last["verdict"] == "INVALID"
    assert "the test raised" in last["reason"]


@pytest.mark.parametrize(
    ("judged", "hint"),
    [
        ("joules(1.0) == 1.0", "Compare with <= or >=."),
        ("joules(1.0)", "Compare it with a limit, by <= or >=."),
        ("(joules(1.0) <= HIGH, 'text')", "Judge each comparison by itself*"),
    ],
)
def test_what_is_no_comparison_is_named_in_a_line_with_what_to_do(project, judged, hint):
    """An object of somebody else's may be long: 80 characters of it are enough."""
    project.run_test(f"def test_x(judge):\n    judge({judged})\n").stdout.fnmatch_lines([f"E*TypeError: judge() takes a comparison*{hint}"])
    (claim,) = project.claims
    assert claim["reason"].count("\n") == 0
    assert len(claim["reason"]) < 400


def test_an_estimate_or_energy_alone_proves_nothing(project):
    """``assert estimate`` would always hold, so it is an error."""
    text = "def test_x(rig):\n    with rig.gpu.window('w') as w:\n        rig.gpu.sleep(1.0)\n    assert w.{}\n"
    for what, hint in (("duration", "compare it with a limit"), ("energy", "compare '.gross' or '.net' with a limit")):
        result = project.run_test(text.format(what))
        assert result.ret == 1
        result.stdout.fnmatch_lines([f"E*TypeError: an *has no truth value: {hint}*"])


def test_an_ordinary_test_that_fails_is_no_claim(project):
    """Only claims enter the table."""
    assert project.run_test("def test_x():\n    assert 1 == 2\n").ret == 1
    assert project.claims == []


def test_a_bare_comparison_judges(project):
    """``assert estimate <= limit`` is a claim, with or without marker and judge; also ``if``, ``not`` and chained comparisons ask it."""
    result = project.run_test(
        """
def test_validated():
    assert joules(1.0) <= HIGH
def test_refuted():
    assert joules(1.0) <= LOW
def test_inconclusive():
    if joules(1.0) <= NEAR:
        pass
def test_both_sides():
    assert LOW <= joules(1.0) <= HIGH
"""
    )
    assert result.ret == 1
    assert project.verdicts == {
        "it.validated": "VALIDATED", "it.refuted": "REFUTED", "it.inconclusive": "INCONCLUSIVE",
        "it.both-sides": "VALIDATED", "it.both-sides#2": "VALIDATED",
    }  # fmt: skip


def test_a_comparison_has_no_truth_value_outside_a_test(project):
    """Not at import, not in a fixture, and not after the last test: only a test can be judged."""
    project.write(
        test_it="""
def truth():
    with pytest.raises(TypeError, match="no truth value here"):
        bool(joules(1.0) <= HIGH)
truth()
@pytest.fixture
def before_and_after():
    truth()
    yield
    truth()
def test_x(before_and_after):
    assert joules(1.0) <= HIGH
"""
    )
    assert project.run().ret == 0
    with pytest.raises(TypeError, match="no truth value here"):
        bool(Estimate.exact(1.0) <= 2.0)


def test_each_call_of_the_judge_is_a_record_and_the_worst_decides(project):
    """Several comparisons of one claim are numbered; those after a failed one are not reached."""
    result = project.run_test(
        """
@pytest.mark.claim("bounded", id="b")
def test_x(judge):
    judge(joules(1.0) <= HIGH)
    judge(joules(1.0) >= LOW)
    judge(joules(1.0) <= NEAR)
    judge(joules(1.0) <= LOW)
"""
    )
    assert result.ret == 10
    assert project.verdicts == {"b": "VALIDATED", "b#2": "VALIDATED", "b#3": "INCONCLUSIVE"}


SHY = """
def test_x(judge):
    try:
        judge(joules(1.0) <= HIGH, needs=[BROKEN])
    except Exception:
        pytest.skip("shy")
"""


@pytest.mark.parametrize(
    ("text", "code", "outcome"),
    [
        ("def test_x(judge):\n    with pytest.raises(AssertionError):\n        judge(joules(1.0) <= LOW)\n", 1, "failed"),
        ("def test_x(judge):\n    try:\n        judge(joules(1.0) <= NEAR)\n    except Exception:\n        pass\n", 10, "inconclusive"),
        (SHY, 10, "invalid"),
        ("@pytest.mark.xfail\ndef test_x(judge):\n    judge(joules(1.0) <= LOW)\n", 1, "failed"),
        ("@pytest.mark.xfail(strict=True)\ndef test_x(judge):\n    judge(joules(1.0) <= HIGH, needs=[BROKEN])\n", 10, "invalid"),
    ],
)  # fmt: skip
def test_a_verdict_stands_whatever_the_test_makes_of_it(project, text, code, outcome):
    """Caught, skipped or expected: there is no way to pass with a claim that did not hold."""
    result = project.run_test(text)
    assert result.parseoutcomes() == {outcome: 1}
    assert result.ret == code


def test_xfail_works_as_ever_for_tests_that_judge_nothing(project):
    """The plugin changes reports of claims only."""
    result = project.run_test("@pytest.mark.xfail\ndef test_x():\n    assert 1 == 2\n")
    assert result.parseoutcomes() == {"xfailed": 1}
    assert result.ret == 0


@pytest.mark.parametrize("mark", ["@pytest.mark.skip(reason='later')", "@pytest.mark.skipif(True, reason='later')"])
def test_a_skipped_claim_is_not_tested_with_its_reason(project, mark):
    """So the table shows that it exists."""
    result = project.run_test(f"{mark}\n@pytest.mark.claim('x', id='x')\ndef test_x(judge):\n    judge(joules(1.0) <= HIGH)\n")
    assert result.ret == 0
    (claim,) = project.claims
    assert (claim["verdict"], claim["reason"]) == ("NOT_TESTED", "later")


# --- prerequisites -----------------------------------------------------------------------------------------------------

FIRST = "@pytest.mark.claim(id='first')\ndef test_first(judge):\n    {}\n"
SECOND = "@pytest.mark.claim(id='second', requires={})\ndef test_second(judge):\n    judge(joules(1.0) <= HIGH)\n"


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        ("judge(joules(1.0) <= HIGH)", "VALIDATED"),
        ("judge(joules(1.0) <= LOW)", "INVALID"),
        ("judge(joules(1.0) <= NEAR)", "INVALID"),
        ("judge(joules(1.0) <= HIGH, needs=[BROKEN])", "INVALID"),
        ("pytest.skip('no')", "INVALID"),
        ("judge(joules(1.0) <= HIGH); judge(joules(1.0) <= LOW)", "INVALID"),
        ("judge(joules(1.0) <= HIGH); judge(joules(1.0) >= LOW)", "VALIDATED"),
        ("judge(joules(1.0) <= HIGH); raise ValueError", "INVALID"),
    ],
)
def test_a_claim_is_invalid_unless_all_of_its_prerequisite_is_validated(project, first, verdict):
    """Every comparison of the required claim counts, not only its first."""
    project.run_test(FIRST.format(first) + SECOND.format("'first'"))
    claim = _by_id(project)["second"]
    assert claim["verdict"] == verdict
    assert all(gate["passed"] for gate in claim["own_gates"]) is (verdict == "VALIDATED")


@pytest.mark.parametrize("text", [SECOND.format(["first"]) + FIRST.format("judge(joules(1.0) <= HIGH)"), SECOND.format(["first"])])
def test_a_prerequisite_that_ran_later_or_not_at_all_makes_invalid(project, text):
    """What was not judged before cannot vouch for anything; the reason says so."""
    project.run_test(text)
    claim = _by_id(project)["second"]
    assert claim["verdict"] == "INVALID"
    assert "claim 'first' is not judged in this run (needed: VALIDATED)" in claim["reason"]


def test_the_chain_of_prerequisites_carries_invalid_on(project):
    """Third needs second needs first."""
    third = "@pytest.mark.claim(id='third', requires=['second'])\ndef test_third(judge):\n    judge(joules(1.0) <= HIGH)\n"
    project.run_test(FIRST.format("judge(joules(1.0) <= LOW)") + SECOND.format(["first"]) + third)
    assert project.verdicts == {"first": "REFUTED", "second": "INVALID", "third": "INVALID"}
