"""A small report that anybody could write, and its audit."""

from __future__ import annotations

from pathlib import Path

from pytest_physics.audit.judge import Audit, audit
from pytest_physics.audit.loader import Loaded, parse

ROOT = Path(__file__).parents[2]
AUDITS = ROOT / "audits"

CLEAN = """
format: 1
title: A sound report
about: Everything in it can be true together.
source: {document: invented for this test}
samples:
  idle:
    title: Idle power
    n: [586]
    quantities:
      power: {unit: W, mean: 20.05, sd: 0.51, min: 18.4, max: 22.3, uncertainty: {stated: 0.021, n: 586},
              outlier_rule_k: 2, levels: [{above: 18, below: 23, at_least: 0.9}]}
durations:
  run: {title: Length of the run, counts: {rows: 1955, dropped: 11}, period_s: 0.1, stated_s: 196.6}
totals:
  reads: {title: Reads, total: 2041, parts: {valid: 1955, failed: 86}}
  intervals: {title: Intervals, total: 1955, parts: {short: 969, long: 980, rest: 6}}
tables:
  warm-up:
    title: Warm-up
    columns:
      time: {unit: min, values: [0, 1, 2, 3]}
      temperature: {unit: C, values: [42.1, 45.3, 46.8, 47.4]}
      rate: {unit: C/min, values: [null, 3.2, 1.5, 0.6]}
    rates: {time: time, base: temperature, printed: rate}
    heating: {time: time, temperature: temperature}
    maximum: {column: rate, stated: 3.2}
proportions:
  faster: {title: Requests in time, a: {successes: 290, trials: 550, percent: 52.7}, b: {successes: 200, trials: 550, percent: 36.4}}
facts:
  limit: {title: Power limit, unit: W, values: {header: 150, appendix: 150.0}}
claims:
  - {id: reads-add-up, statement: All reads are accounted for, asserts: [reads, intervals]}
  - {id: warm-up-rates, statement: The rates are those of the temperatures, asserts: [warm-up], rests_on: [run, idle]}
  - {id: arms-differ, statement: The arms differ, asserts: [faster], rests_on: [limit], requires: [reads-add-up]}
  - {id: throughput, statement: Throughput rises, needs: the event log}
"""
"""A clean synthetic report, with arithmetic that closes in reality: 1955 + 86 = 2041 and 969 + 980 + 6 = 1955."""


def judged(text: str, directory: Path | None = None) -> Audit:
    """The audit of ``text``."""
    return audit(Loaded(statements=parse(text), path=Path("report.yaml"), sha256="0" * 64), directory)
