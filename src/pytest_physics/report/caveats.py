"""What a run does not show: generated from its records, so that nobody has to remember to say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.response import UNCALIBRATED_GAIN
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import ClaimRecord, ResultRecord, SensorRecord
from pytest_physics.report import format as fmt
from pytest_physics.report.rows import gate_rows
from pytest_physics.report.summary import all_gates, coverage, is_complete, state_words

FULL_PROFILE = "publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """One limit of a run, in a title and one sentence each."""

    title: str
    sentences: Sequence[str]


def caveats(reader: RunReader, claims: Sequence[ClaimRecord]) -> list[Caveat]:
    """All limits that apply; ``claims`` are the attempts that count."""
    rules: list[tuple[str, Callable[[RunReader, Sequence[ClaimRecord]], list[str]]]] = [
        ("The run did not finish", _incomplete),
        ("Simulated numbers", _simulated),
        ("Claims that were not tested", _not_tested),
        ("Claims that the measurement cannot speak to", _invalid),
        ("Channels this rig does not have", _absent),
        ("Absolute scale", _scale),
        ("Profile", _profile),
        ("Gates that warned", _warned),
        ("Intervals that miss the truth", _missed),
    ]
    found = [Caveat(title=title, sentences=rule(reader, claims)) for title, rule in rules]
    return [caveat for caveat in found if caveat.sentences]


def scale_sentence(sensor: SensorRecord) -> str:
    """What is known of an instrument's absolute scale; stated once per run."""
    u_gain = sensor.sensor.u_gain
    head = (
        f"{sensor.instrument}: absolute scale {'uncalibrated' if u_gain >= UNCALIBRATED_GAIN else 'calibrated'}, u = {fmt.percent(u_gain)}."
    )
    return f"{head} Ratios of energies of this device do not suffer from it." if u_gain >= UNCALIBRATED_GAIN else head


def _incomplete(reader: RunReader, _: Sequence[ClaimRecord]) -> list[str]:
    if is_complete(reader.run):
        return []
    words = state_words(reader.run)
    return [f"{words[0].upper()}{words[1:]}. What would have come after is missing, and no verdict here stands for the whole."]


def _simulated(_: RunReader, claims: Sequence[ClaimRecord]) -> list[str]:
    judged = [claim for claim in claims if claim.verdict is not Verdict.NOT_TESTED]
    simulated = sum(claim.simulated for claim in judged)
    if not simulated:
        return []
    rests = f"{simulated} of {fmt.plural(len(judged), 'judged claim')} {'rests' if simulated == 1 else 'rest'} on a simulated device."
    return [f"{rests} They show that the analysis recovers known physics; they say nothing about any real device."]


def _not_tested(_: RunReader, claims: Sequence[ClaimRecord]) -> list[str]:
    return [f"“{claim.statement}”: {_ended(claim.reason)}" for claim in claims if claim.verdict is Verdict.NOT_TESTED]


def _invalid(_: RunReader, claims: Sequence[ClaimRecord]) -> list[str]:
    return [f"“{claim.statement}”: {_ended(claim.reason)}" for claim in claims if claim.verdict is Verdict.INVALID]


def _absent(reader: RunReader, _: Sequence[ClaimRecord]) -> list[str]:
    return [f"{name}, {channel}: {_ended(reason)}" for name, i in reader.run.instruments.items() for channel, reason in i.absent.items()]


def _scale(reader: RunReader, _: Sequence[ClaimRecord]) -> list[str]:
    return [
        f"{s.instrument}: every absolute energy and power carries the error of an uncalibrated scale, u = {fmt.percent(s.sensor.u_gain)}."
        for s in {record.instrument: record for record in reader.sensors}.values()  # what was known at the end
        if s.sensor.u_gain >= UNCALIBRATED_GAIN
    ]


def _profile(reader: RunReader, _: Sequence[ClaimRecord]) -> list[str]:
    profile = reader.run.profile
    if profile == FULL_PROFILE:
        return []
    less = "fewer repetitions and shorter windows, so intervals are wider and slow drifts may stay unseen"
    return [f"Profile '{profile}' measures less than '{FULL_PROFILE}': {less}."]


def _warned(reader: RunReader, _: Sequence[ClaimRecord]) -> list[str]:
    warned = gate_rows(gate for gate in all_gates(reader) if gate.warning and not gate.passed)
    return [f"{row.name} ({row.scope}): {_ended(row.reason)}" for row in warned]


def _missed(reader: RunReader, _: Sequence[ClaimRecord]) -> list[str]:
    found = coverage(reader.results)
    if found.held == found.known:
        return []
    missed = f"{found.known - found.held} of {fmt.plural(found.known, 'interval')}"
    far = [r for r in reader.results if _miss(r) > FAR_MISS]
    if far:
        named = ", ".join(dict.fromkeys(f"{r.experiment}: {r.quantity}" for r in far))
        return [f"{missed}, of them {len(far)} by more than {FAR_MISS:g} U ({named}): that is no chance; these estimates are biased."]
    return [f"{missed}: about one in twenty is expected to, and all points of a device share its scale error."]


FAR_MISS = 2.0
"""A truth further from its estimate than this many expanded uncertainties is not a matter of chance."""


def _miss(result: ResultRecord) -> float:
    """Distance of the truth from the estimate in expanded uncertainties; 0 where either is not known."""
    estimate = result.estimate
    if result.truth is None or estimate.value is None or not estimate.expanded:
        return 0.0
    return abs(estimate.value - result.truth) / estimate.expanded


def _ended(text: str) -> str:
    """``text`` with a full stop, where it has no end of its own."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
