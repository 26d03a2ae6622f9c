"""The ``vram_budget`` marker and the ``vram`` fixture."""

from __future__ import annotations

import pytest

BODY = """
@pytest.mark.vram_budget({arguments})
def test_it(vram):
    block = vram.allocator.allocate(2**30)
"""


@pytest.mark.parametrize(("gib", "verdict"), [(1.5, "VALIDATED"), (0.5, "REFUTED")])
def test_budget_is_judged(project, gib, verdict):
    """A peak of 1 GiB keeps a budget of 1.5 GiB and breaks one of 0.5."""
    project.run_test(BODY.format(arguments=f"gib={gib}"))
    assert set(project.verdicts.values()) == {verdict}
    (claim,) = project.claims
    assert claim["estimate"]["unit"] == "GiB"
    assert claim["estimate"]["value"] == pytest.approx(1.0)


def test_a_short_peak_breaks_the_budget(project):
    """A block that is freed before the test ends counts all the same."""
    project.run_test(BODY.format(arguments="gib=0.5") + "    vram.allocator.free(block)\n")
    assert set(project.verdicts.values()) == {"REFUTED"}


def test_a_budget_of_code_that_the_twin_never_sees_is_not_tested(project):
    """Host memory does not lie on a twin: a peak of 0 there would keep every budget."""
    project.run_test("@pytest.mark.vram_budget(gib=0.1)\ndef test_it():\n    bytearray(2**20)\n")
    assert set(project.verdicts.values()) == {"NOT_TESTED"}


@pytest.mark.parametrize("arguments", ["gib=0", "gib=-1", "2.0, instrument='gpuu'", ""])
def test_wrong_budgets_are_usage_errors(project, arguments):
    """Found at collection, with an example."""
    result = project.run_test(BODY.format(arguments=arguments))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*vram_budget(gib=2.0)*"])


def test_vram_skips_without_physics(project):
    """As every fixture of the rig."""
    project.write(test_it="def test_it(vram):\n    pass\n")
    project.run(physics=False).assert_outcomes(skipped=1)
