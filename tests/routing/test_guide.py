"""The guide's examples are real files, its output is the real output, its code runs."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_physics.routing.files import Costs, Usage, read
from pytest_physics.routing.judge import judge
from pytest_physics.routing.points import PointsFile
from pytest_physics.routing.terminal import lines

GUIDE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")


def block(marker):
    return re.search(r"```\w+\n(.*?)```", GUIDE.partition(marker)[2], re.DOTALL).group(1)


def test_the_example_gives_the_output_shown(tmp_path):
    """Line by line, at 80 columns."""
    for name in ("usage.json", "costs.json"):
        (tmp_path / name).write_text(block(f"<!-- example: {name} -->"), encoding="utf-8")
    judged = judge(read(tmp_path / "usage.json", tmp_path / "costs.json"))
    assert "\n".join(lines(judged)) + "\n" == block("<!-- output -->")


def test_the_code_runs():
    """Its assertions hold."""
    exec(compile(block("## In Python"), "docs/routing.md", "exec"), {})


def test_every_key_is_described():
    """The tables name each key of both files, and no other; so does the sentence about points."""
    tables = GUIDE.partition("## The files")[2].partition("## A sweep on a cluster")
    usage, _, costs = tables[0].partition("`costs.json`")
    for text, model in ((usage, Usage), (costs, Costs)):
        named = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
        assert named == set(model.model_fields)
    assert all(f"`{name}`" in tables[2] for name in PointsFile.model_fields)
