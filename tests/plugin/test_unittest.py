"""Tests written for ``unittest``, and subtests: both tell of an error where others raise it."""

from __future__ import annotations

import pytest

CASE = """
import unittest
class Test(unittest.TestCase):
    @pytest.mark.claim("x", id="x")
    {decorator}
    def test_x(self):
{body}
"""
LATE = "assert joules(1.0) <= HIGH\nself.fail('later')"
IN_SUBTEST = "assert joules(1.0) <= HIGH\nwith self.subTest(i=1):\n    self.fail('later')"


def _case(body: str, decorator: str = "") -> str:
    return CASE.format(decorator=decorator, body="\n".join(f"        {line}" for line in body.splitlines()))


@pytest.mark.parametrize(
    ("body", "decorator"),
    [
        ("self.skipTest('no card')", ""),
        ("raise unittest.SkipTest('no card')", ""),
        ("pytest.skip('no card')", ""),
        ("pass", "@unittest.skip('no card')"),
        ("self.skipTest('no card')", "@pytest.mark.energy_budget(5)"),
        ("with self.subTest(i=1):\n    self.skipTest('no card')", ""),
    ],
)
def test_a_skipped_unittest_claim_is_not_tested(project, body, decorator):
    """As a function's: the reason stands in the table, and nothing failed."""
    result = project.run_test(_case(body, decorator))
    assert [(claim["verdict"], claim["reason"]) for claim in project.claims] == [("NOT_TESTED", "no card")]
    assert result.ret == 0


@pytest.mark.parametrize("place", ["class", "setUpClass", "setUp", "function"])
def test_a_claim_is_not_tested_wherever_unittest_skips_it(project, place):
    """The class's decorator, its fixtures, or ``SkipTest`` raised in a plain function."""
    body = "        raise unittest.SkipTest('no card')\n"
    text = {
        "class": _case("pass").replace("class Test", "@unittest.skip('no card')\nclass Test"),
        "setUpClass": _case("pass") + f"    @classmethod\n    def setUpClass(cls):\n{body}",
        "setUp": _case("pass") + f"    def setUp(self):\n{body}",
        "function": f"import unittest\n@pytest.mark.claim('x', id='x')\ndef test_x():\n{body}",
    }[place]
    assert project.run_test(text).ret == 0
    assert [(claim["verdict"], claim["reason"]) for claim in project.claims] == [("NOT_TESTED", "no card")]


@pytest.mark.parametrize(
    "text",
    [
        _case(LATE),
        _case("assert joules(1.0) <= HIGH\nraise ValueError('later')"),
        _case("assert joules(1.0) <= HIGH") + "    def tearDown(self):\n        raise ValueError('later')\n",
        _case(IN_SUBTEST),
        "def test_x(judge, subtests):\n    judge(joules(1.0) <= HIGH)\n    with subtests.test(i=1):\n        raise ValueError('later')\n",
    ],
)
def test_a_claim_whose_test_fails_after_judging_is_invalid(project, text):
    """Whoever keeps the error: the test itself, its tear-down, or a subtest of unittest's or pytest's."""
    if "subtests" in text and not hasattr(pytest, "Subtests"):
        pytest.skip("this pytest has no subtests")
    result = project.run_test(text)
    assert [claim["verdict"] for claim in project.claims] == ["VALIDATED", "INVALID"]
    assert project.claims[-1]["reason"].endswith("before it was through: later")
    assert result.ret == 1
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_unittest_that_fails_as_expected_cannot_talk_its_claim_away(project):
    """As with ``xfail``."""
    assert project.run_test(_case(LATE, "@unittest.expectedFailure")).ret == 10
    assert [claim["verdict"] for claim in project.claims] == ["VALIDATED", "INVALID"]


def test_a_subtest_that_is_skipped_ends_nothing_but_itself(project):
    """What the rest of the test judged stands."""
    assert project.run_test(_case("with self.subTest(i=1):\n    self.skipTest('no card')\nassert joules(1.0) <= HIGH")).ret == 0
    assert project.verdicts == {"x": "VALIDATED"}


def test_a_unittest_refutes_once(project):
    """Its verdict is recorded once, and fails the test."""
    result = project.run_test(_case("assert joules(1.0) <= LOW"))
    assert result.ret == 1
    assert result.parseoutcomes() == {"failed": 1}
    assert [claim["verdict"] for claim in project.claims] == ["REFUTED"]


def test_a_unittest_that_is_no_claim_fails_as_ever(project):
    """Only claims enter the table; its subtests are reported by pytest alone."""
    text = _case("with self.subTest(i=1):\n    self.fail('no')").replace("@pytest.mark.claim", "# ")
    plain = project.run_test(text)
    assert plain.ret == project.run(physics=False).ret
    assert project.claims == []
