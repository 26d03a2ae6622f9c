"""Bad statements are refused with the line, the place and what to do; good ones keep their decimals."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sound_report import CLEAN

from pytest_physics.audit.loader import load, parse
from pytest_physics.audit.statements import Statements
from pytest_physics.errors import ConfigurationError

HEAD = "title: T\nsource: {document: D}\n"
SCHEMA = Path(__file__).parents[2] / "docs" / "audit.schema.json"

BAD = [
    ("totals:\n  a: &a {total: 3, parts: {x: 3}}\n  b: *a\n", "line 5", "aliases (*a) are not read"),
    ("totals:\n  a: {total: 19:00, parts: {x: 3}}\n", "line 4", "'19:00' is not a number"),
    ("totals:\n  a: {total: .inf, parts: {x: 3}}\n", "line 4", "'.inf' is not a number"),
    ("totals:\n  a: {total: !!python/name:os.system x, parts: {x: 3}}\n", "line 4", "could not determine a constructor"),
    ("samples: [\n", "line 4", "expected"),
    ("totals:\n  a: {total: 3, parts: {x: 3}}\n  a: {total: 4, parts: {x: 4}}\n", "line 5", "'a' is given twice"),
    ("durations:\n  a:\n    counts: {rows: 3}\n    periode_s: 1\n    stated_s: 3\n", "line 6", "did you mean 'period_s'?"),
    ("sample: {}\n", "line 3", "did you mean 'samples'?"),
    ("durations:\n  a:\n    counts: {rows: 3}\n    stated_s: 3\n", "line 4", "is missing"),
    ("samples:\n  a:\n    quantities:\n      p: {unit: W, mean: ~20 W}\n", "line 6", "'~20 W' is not a number"),
    ("samples:\n  a:\n    quantities:\n      p:\n        unit: W\n        mean: true\n", "line 8", "must be a number"),
    ("formulas:\n  a: {unit: J/token, terms: {x: 'J^y'}}\n", "line 4", "is not a unit"),
    ("proportions:\n  a: {a: {successes: 9, trials: 5}}\n", "line 4", "'successes' must not be larger"),
    ("claims:\n  - {id: c, statement: S, asserts: [nothing]}\n", "line 1", "there is no such exhibit"),
    ("claims:\n  - {id: c, statement: S, requires: [later]}\n", "line 1", "no such claim above it"),
    ("classes:\n  a: {rules: [{name: good, gap: about a tenth}]}\n", "line 4", "is no condition"),
    ("tables:\n  t:\n    columns: {x: {unit: s, values: [1, 2]}, y: {unit: W, values: [1]}}\n", "line 4", "different lengths"),
    ("tables:\n  t:\n    columns: {x: {unit: s, values: [1]}}\n    maximum: {column: z, stated: 1}\n", "line 4", "does not have"),
    ("allocations:\n  a: {counts: [1, 2], costs: [1.0]}\n", "line 4", "'counts' has 2 places"),
    ("totals:\n  a: {total: 3, parts: {x: 3}}\ndurations:\n  a: {counts: {r: 3}, period_s: 1, stated_s: 3}\n", "line 1", "used twice: a"),
]


@pytest.mark.parametrize(("text", "line", "words"), BAD, ids=[words for _, _, words in BAD])
def test_a_bad_file_names_line_and_fault(text, line, words):
    """Malformed YAML, unknown and missing keys, numbers as words, wrong units, contradictory declarations."""
    with pytest.raises(ConfigurationError) as caught:
        parse(HEAD + text, name="report.yaml")
    assert f"report.yaml, {line}" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1\n", "just words\n"])
def test_a_file_that_is_no_mapping_is_refused(text):
    """An empty file, a list, a sentence."""
    with pytest.raises(ConfigurationError, match="a statements file is a mapping"):
        parse(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    """No text raises anything but the error that names it."""
    with contextlib.suppress(ConfigurationError):
        parse(text)


def test_decimals_are_those_of_the_file():
    """20.70 in YAML has two decimals, and so has "20.70" in JSON."""
    yaml_total = parse(HEAD + "totals:\n  a: {total: 20.70, parts: {x: 1}}\n").totals["a"].total
    json_total = parse(json.dumps({"title": "T", "source": {"document": "D"}, "totals": {"a": {"total": "20.70", "parts": {"x": 1}}}}))
    assert (float(yaml_total), yaml_total.decimals) == (20.7, 2)
    assert json_total.totals["a"].total.decimals == 2


def test_a_number_keeps_its_meaning_for_people():
    """010 is ten, −3 with a typographic minus is minus three, 2e3 is two thousand."""
    values = parse(HEAD + "facts:\n  a: {values: {x: 010, y: 2e3, z: 1}}\nrates:\n  r: {count: −3, time_s: 1, stated: 1}\n")
    assert (values.facts["a"].values["x"], float(values.rates["r"].count)) == (10, -3)


def test_words_in_facts_stay_words():
    """A version "3.12" is text, and is not 3.1; a number is a number; a truth value is a word."""
    values = parse(HEAD + 'facts:\n  a: {values: {x: "3.12", y: 3.12, z: true}}\n').facts["a"].values
    assert values["x"] == "3.12"
    assert isinstance(values["x"], str)
    assert isinstance(values["y"], float)
    assert values["z"] == "true"


def test_json_is_read_like_yaml(tmp_path):
    """A statements file may be JSON."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"title": "T", "source": {"document": "D"}, "rates": {"r": {"count": 3, "time_s": 1.5, "stated": 2}}}))
    assert load(path).statements.rates["r"].stated == 2


@pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), (b"\xff\xfe\x00", "not UTF-8")])
def test_a_file_that_cannot_be_read_says_so(tmp_path, content, words):
    """No file, and bytes that are no text."""
    path = tmp_path / "report.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        load(path)


def test_the_published_schema_is_that_of_the_models():
    """``docs/audit.schema.json`` is generated: see the guide for the command."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == Statements.model_json_schema()


def test_the_sound_report_is_read():
    """The fixture of these tests is a valid file."""
    assert parse(CLEAN).title == "A sound report"
