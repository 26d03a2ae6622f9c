"""Recipes of the training coupling: coefficients of a pair of series, and matched steps.

A pair is a column of the step table and a column of telemetry, over the steady zone (:mod:`~pytest_physics.record.joined`). The whole
analysis is :func:`~pytest_physics.metrology.coupling.couple`; each of its numbers is a leaf of its own, so that a claim can rest on it:

``r``, ``rho``    Pearson's and Spearman's coefficient of the analysis that decides, with Fisher's interval over effective pairs; ``r`` is
                  at the lag of the largest |r| and widened for all lags, ``rho`` is at lag 0
``r_raw``         Pearson's r of the series as measured at lag 0: what is usually published
``lag``           that lag in rows; positive: the step's series leads
``n``, ``n_eff``  distinct pairs, and what they are worth
``partial``       ``r`` with the columns ``given`` (the load) regressed out of both series
``p``             share of circular shifts that do as well
``word``          rank of the verdict: 0 not supported, 1 weak, 2 moderate, 3 strong

What refuses the analysis is a failed gate. Where a twin's coupling was planted, the table holds it (columns ``planted_r``,
``planted_lag``), and it is the truth of ``r`` and ``lag``. Reference: RLE study §4, §7.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.coupling import WORDS, Correlation, Coupling, couple, replicate_null, steady_zone_s
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, coverage_factor
from pytest_physics.record.data import RunData
from pytest_physics.record.joined import joined, steps_of, telemetry_columns
from pytest_physics.record.leaves.imported import imported_checks
from pytest_physics.record.leaves.window import host_gates_of
from pytest_physics.record.registry import Parameters, exactly, leaf, provenance_of
from pytest_physics.record.sensor_checks import no_value, not_tested, part

UTILISATION = "utilisation_ratio"
AT_WORK = 0.05
"""Median utilisation below which a card did not run the training."""
IMPORTED = "import"
"""Kind of an instrument that another monitor recorded."""


def coupling_of(parameters: Parameters, data: RunData) -> Coupling:
    """The analysis of one pair, once per run; refused as :func:`couple` and ``align`` refuse."""
    names = (parameters["table"], parameters["instrument"], parameters["a"], parameters["b"], parameters.get("max_lag_s", 0.0))
    given, baselines = tuple(parameters.get("given", ())), tuple(parameters.get("baselines", ()))
    key = f"coupling|{names}|{given}|{baselines}"
    if key not in data.memory:
        table, instrument, a, b, max_lag_s = names
        aligned = joined(data, table, instrument, [a, b, *given], baselines=baselines)
        missing = [name for name in (a, b, *given) if name not in aligned.columns]
        if missing:
            raise LookupError(missing[0])
        data.memory[key] = couple(aligned, a, b, max_lag_s=max_lag_s, given=given, scope=f"{a} and {b} of {instrument}")
    found: Coupling = data.memory[key]
    return found


def _absent(parameters: Parameters, data: RunData, name: str) -> Estimate:
    instrument = parameters["instrument"]
    reason = data.instrument(instrument).absent.get(name, f"neither the training nor '{instrument}' has '{name}'")
    return not_tested("coupling", f"{parameters['a']} and {parameters['b']} of {instrument}", "1", reason)


def _gates(parameters: Parameters, data: RunData) -> tuple[Gate, ...]:
    """The host was quiet, and the channel was measured at all."""
    instrument, table = parameters["instrument"], parameters["table"]
    t0_ns, t1_ns = steps_of(data.table(table)).zone_ns
    gates = (*host_gates_of(data, t0_ns, t1_ns, instrument, f"{table}, steady zone"), *_at_work(data, instrument, (t0_ns, t1_ns)))
    if data.instrument(instrument).fingerprint.kind == IMPORTED:
        wanted = {instrument, f"{instrument}: {parameters['b']}"}
        gates += tuple(gate for gate in imported_checks(data, instrument).gates if gate.scope in wanted)
    return gates


def _at_work(data: RunData, instrument: str, span_ns: tuple[int, int]) -> tuple[Gate, ...]:
    """A card that did nothing is not the training's device; a CPU ran the training's own process in any case."""
    found = telemetry_columns(data, instrument, [UTILISATION], span_ns).get(UTILISATION)
    if found is None or instrument.startswith("cpu") or not np.isfinite(found[1]).any():
        return ()
    busy = float(np.nanmedian(found[1]))
    passed = busy >= AT_WORK
    return (
        Gate(
            name="device at work", scope=f"{instrument}, steady zone", measured=busy, limit=AT_WORK, unit="1", passed=passed,
            reason=f"'{instrument}' was busy {100 * busy:.3g} % of the time in the median of the steady zone (limit {100 * AT_WORK:g} %)",
            remedy="" if passed else "look at the device that trained: what an idle one does says nothing of the training",
        ),
    )  # fmt: skip


def _provenance(parameters: Parameters, data: RunData) -> Provenance:
    instrument, b = parameters["instrument"], parameters["b"]
    if data.instrument(instrument).fingerprint.kind == IMPORTED:
        return Provenance.weakest(Provenance.STALE, imported_checks(data, instrument).provenance.get(b, Provenance.DERIVED))
    return provenance_of(data, instrument)


def _judged(parameters: Parameters, data: RunData, number: Callable[[Coupling], Estimate]) -> Estimate:
    """A number of the analysis with its gates; a refusal as a failed gate, a missing column as "not tested"."""
    try:
        found = coupling_of(parameters, data)
    except RefusedError as refusal:
        estimate = no_value("1", refusal.gate, "refused")
        return replace(estimate, provenance=_provenance(parameters, data), gates=(*estimate.gates, *_gates(parameters, data)))
    except LookupError as missing:
        return _absent(parameters, data, str(missing.args[0]))
    estimate = number(found)
    return replace(
        estimate, quality=min(estimate.quality, Quality.GOOD), provenance=_provenance(parameters, data),
        gates=(*estimate.gates, *_matched(parameters, data), *found.gates, *_gates(parameters, data)),
    )  # fmt: skip


def _matched(parameters: Parameters, data: RunData) -> tuple[Gate, ...]:
    """Steps with a partner in the telemetry; fewer than 90 % are refused before."""
    steps = steps_of(data.table(parameters["table"]))
    found = joined(data, parameters["table"], parameters["instrument"], [parameters["b"]], baselines=parameters.get("baselines", ()))
    zone = "the steady zone" if steps.has_zone else "the training, which has no steady zone"
    return (
        Gate(
            name="matched steps",
            scope=f"{parameters['table']} and {parameters['instrument']}",
            measured=found.matched_share,
            limit=0.9,
            unit="1",
            passed=True,
            reason=f"{found.matched} of {found.rows} steps of {zone} have a partner within {found.tolerance_s:.3g} s; "
            f"{found.distinct} distinct pairs",
        ),
    )


def _coefficient(source: str, found: Correlation, name: str) -> Estimate:
    """A coefficient; its symmetric interval holds Fisher's, which is not symmetric."""
    dof = max(1.0, found.n_eff - 3)
    u = max(found.high - found.r, found.r - found.low) / coverage_factor(dof)
    component = Component(label="scatter of effective pairs", source=source, contribution=u, dof=dof, evaluation="A")
    return Estimate(value=found.r, unit="1", components=(component,), estimator=name)


def _plain(value: float, estimator: str, unit: str = "1") -> Estimate:
    return Estimate(value=value, unit=unit, estimator=estimator)


def _number_of(quantity: str, source: str) -> Callable[[Coupling], Estimate]:
    def number(found: Coupling) -> Estimate:
        best = found.decisive
        plain = {
            "word": (float(WORDS.index(found.word)), found.word),
            "p": (found.p, f"{best.surrogates.n} circular shifts, {2 * best.surrogates.max_lag + 1} lags"),
            "n": (float(best.peak.n), "distinct pairs"),
            "n_eff": (best.peak.n_eff, "Bretherton"),
        }
        if quantity in plain:
            return _plain(*plain[quantity])
        if quantity == "lag" and not found.supported:
            return not_tested("lag", source.replace("|", ", "), "1", "no coupling is supported, and the largest of many |r| lies anywhere")
        if quantity == "lag":
            return replace(
                _plain(float(best.lags.peak_lag), f"largest |r|, {best.name}"),
                components=(part("half a row", f"lag|{source}", 1 / math.sqrt(12)),),
            )
        chosen = {"r": best.peak, "rho": best.spearman, "r_raw": found.analyses["as measured"].pearson, "partial": best.partial}[quantity]
        if chosen is None:
            return not_tested("partial correlation", source.replace("|", ", "), "1", "no load was given")
        name = f"{chosen.method}, {'as measured' if quantity == 'r_raw' else best.name}"
        return _coefficient(f"{quantity}|{source}", chosen, name)

    return number


SHOWN_AS: Mapping[str, str] = {
    "r": "r", "rho": "Spearman's rho", "r_raw": "r as measured, lag 0", "lag": "lag in rows", "n": "pairs", "n_eff": "effective pairs",
    "p": "p over circular shifts", "word": "verdict, 0 none to 3 strong",
}  # fmt: skip
"""Numbers of a pair, and what they are called in the results."""
PLANTED: Mapping[str, str] = {"r": "planted_r", "lag": "planted_lag"}
"""Columns of the step table that hold what was planted."""


def _leaf_of(quantity: str) -> Callable[[Parameters, RunData], Estimate]:
    def measured(parameters: Parameters, data: RunData) -> Estimate:
        source = "|".join(str(parameters[key]) for key in ("table", "instrument", "a", "b"))
        return _judged(parameters, data, _number_of(quantity, source))

    return measured


def _planted(column: str) -> Callable[[Parameters, RunData], Estimate | None]:
    def truth(parameters: Parameters, data: RunData) -> Estimate | None:
        table = data.table(parameters["table"])
        if column not in (table.dtype.names or ()) or not parameters.get("planted"):
            return None
        return exactly(float(table[column][0]), "1")

    return truth


leaf("coupling.partial")(_leaf_of("partial"))
for _quantity in SHOWN_AS:
    _column = PLANTED.get(_quantity)
    leaf(f"coupling.{_quantity}", truth=_planted(_column) if _column else None)(_leaf_of(_quantity))


# --- design and replicates --------------------------------------------------------------------------------------------


@leaf("coupling.needed_zone")
def needed_zone(parameters: Parameters, data: RunData) -> Estimate:
    """How long the steady zone must be for a coupling ``r`` to be found with 90 % power, from the lag-1 correlations of these series."""

    def length(found: Coupling) -> Estimate:
        aligned = joined(data, parameters["table"], parameters["instrument"], [parameters["b"]], baselines=parameters.get("baselines", ()))
        pair = [aligned.columns[parameters[key]] for key in ("a", "b")]
        rho = [_lag1(values[np.isfinite(values)]) for values in pair]
        seconds = steady_zone_s(
            float(parameters["r"]), period_s=aligned.period_s, lag1=(rho[0], rho[1]), max_lag_s=float(parameters.get("max_lag_s", 0.0))
        )  # fmt: skip
        return _plain(seconds, f"r = {parameters['r']:g} at 90 % power, {found.decisive.peak.n} pairs as pilot", "s")

    return replace(_judged(parameters, data, length), unit="s")


def _lag1(values: np.ndarray[Any, Any]) -> float:
    """Lag-1 correlation after a cubic is taken out, between 0 and 0.99: what an unlucky pilot says beyond is noise."""
    at = np.linspace(-1, 1, values.size)
    rest = values - np.polynomial.polynomial.polyval(at, np.polynomial.polynomial.polyfit(at, values, 3))
    spread = float(rest @ rest)
    return float(np.clip(rest[1:] @ rest[:-1] / spread, 0.0, 0.99)) if spread > 0 else 0.0


@leaf("coupling.replicates")
def replicates(parameters: Parameters, data: RunData) -> Estimate:
    """Trainings repeated from one seed: how many of their logs are equal to the last bit, over the steps that all of them have."""
    common = min(len(data.table(name)) for name in parameters["tables"])
    series = [_log(data, name, common) for name in parameters["tables"]]
    same = sum(np.array_equal(first, series[0], equal_nan=True) for first in series)
    return Estimate(
        value=float(same),
        unit="1",
        estimator=f"of {len(series)} logs, {common} steps",
        provenance=provenance_of(data, parameters["instrument"]),
    )


@leaf("coupling.noise_floor")
def noise_floor(parameters: Parameters, data: RunData) -> Estimate:
    """Spread of r between one series of the steps and telemetry that replicates do not share: an |r| below twice this is noise."""
    instrument, a, b = (str(parameters[key]) for key in ("instrument", "a", "b"))
    try:
        sides = [_on_steps(data, table, instrument, b) for table in parameters["tables"]]
        found = replicate_null(steps_of(data.table(parameters["tables"][0])).columns[a], sides)
    except RefusedError as refusal:
        return no_value("1", refusal.gate, "refused")
    except LookupError as missing:
        return _absent(parameters, data, str(missing.args[0]))
    pairs = found.null_r.size
    u = found.noise_floor / math.sqrt(2 * pairs)
    source = f"floor|{instrument}|{a}|{b}"
    return Estimate(
        value=found.noise_floor, unit="1", components=(part("between replicates", source, u, dof=float(pairs), evaluation="A"),),
        quality=Quality.GOOD, provenance=provenance_of(data, instrument), estimator=f"differences of {len(sides)} replicates",
    )  # fmt: skip


def _log(data: RunData, table_id: str, steps: int) -> np.ndarray[Any, Any]:
    table = data.table(table_id)
    return np.concatenate([np.asarray(table[name][:steps], dtype=np.float64) for name in ("step", "loss", "grad_norm", "learning_rate")])


def _on_steps(data: RunData, table_id: str, instrument: str, name: str) -> np.ndarray[Any, Any]:
    """Telemetry interpolated at the middle of every step."""
    steps = steps_of(data.table(table_id))
    if name in steps.columns:
        return steps.columns[name]
    t_s, values = _telemetry(data, instrument, name, (int(steps.begin_ns[0]), int(steps.end_ns[-1])))
    known = np.isfinite(values)
    return np.asarray(np.interp((steps.begin_ns + steps.end_ns) / 2 / NS_PER_S, t_s[known], values[known]))


def _telemetry(data: RunData, instrument: str, name: str, span_ns: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    found = telemetry_columns(data, instrument, [name], span_ns)
    if name not in found:
        raise LookupError(name)
    return found[name]
