"""The figures of the instrument response: readings against the fitted model, the square wave, and the counter against the integral.

Each is drawn from what the run recorded, with the evaluation that its numbers come from. A phase that is missing, or whose data refuse,
costs its figure only, and its caption says why.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import PhysicsError
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.sensor_fit import response
from pytest_physics.metrology.step_response import rise_limit_s
from pytest_physics.metrology.update_period import readings_on_comb
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.identification import LOAD_ON, Identification, identify, load_of
from pytest_physics.record.schema import PhaseRecord, ResultRecord, WindowRecord
from pytest_physics.record.sensor_checks import phase_samples, power_of, readings_in, windows_named
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import count, duration, number, percent, plural, slug

SHOWN_UPDATES = 40
"""Updates of the telegraph that are drawn: more would be a band."""
MISMATCH = "counter less integral"

UNDERSTANDING = (
    "A power reading is no instant: it is a mean over a window (or follows with a lag), handed out once per update period, with a "
    "delay. These were found by switching a load at random and fitting the readings; dots on the line mean that the model is right. A"
    " small lag beside a window, and part of the delay, are the card's own electrical rise, which no load can tell from the sensor's."
    " Where the driver keeps samples of its own at the rate of the updates, its timestamps give the update period, and the fit to the"
    " polls checks it; the estimator says which was used. Where the window is shorter than the update period, the sensor does not "
    "look for the rest of the time, and a load in step with it is misread: the phase lock shows by how much. The square wave passes "
    "if the reading rises as fast as the window allows, and no faster limit would be fair. The energy counter is a second instrument "
    "with a scale of its own: a constant mismatch is a difference of scales, which nobody can tell apart without a reference meter; a"
    " mismatch that grows for short windows is the counter's tick. Polling perturbation is what reading the sensor itself does to "
    "idle power: the counter's mean power with the sampler reading, less that with the sampler paused."
)


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:
    """Figures of the instrument response of a run; none for phases that it has not."""
    named = {"telegraph": _telegraph, "square wave": _square_wave}
    phases = [(phase, named[phase.name]) for phase in run.reader.run.phases if phase.name in named and phase.t1_ns is not None]
    found = []
    for phase, draw in phases:
        try:
            found.append(draw(run, phase))
        except (PhysicsError, ArithmeticError, LookupError, TypeError, ValueError) as error:  # edited or missing records break anything
            found.append(Drawing(id=_key(phase), svg="", caption=f"Phase '{phase.name}' ({phase.id}) cannot be drawn: {error}"))
    compared = [r for r in results if r.quantity == MISMATCH and r.estimate.value is not None and "window_s" in r.coordinates]
    return [*found, *([_mismatch(compared)] if compared else [])]


def _key(phase: PhaseRecord) -> str:
    return f"fig-sensor-{slug(phase.name)}-{slug(phase.id)}"


# --- telegraph -------------------------------------------------------------------------------------------------------


def _telegraph(run: RecordedRun, phase: PhaseRecord) -> Drawing:
    """Readings of the telegraph beside the load and the fitted model, over the first updates."""
    loads = windows_named(run, phase, LOAD_ON)
    try:
        found = identify(run, phase)
    except RefusedError as refusal:
        return Drawing(id=_key(phase), svg="", caption=f"The sensor was not identified. {refusal}")
    trace = phase_samples(run, phase)
    before, after = np.asarray(trace.rows["t_before_ns"]), np.asarray(trace.rows["t_after_ns"])
    readings = readings_on_comb(before, after, power_of(trace), found.comb)
    best = found.fit.best
    start_s, stop_s = _shown_span(loads, readings.origin_ns, found)
    t_s = np.linspace(start_s, stop_s, 2000)
    load = load_of(run, phase, readings.origin_ns)
    model = best.offset_w + best.gain * response(load, t_s - best.delay_s, window_s=best.window_s, lag_s=best.lag_s)
    power = best.offset_w + best.gain * load.level[np.searchsorted(load.edge_s, t_s, side="right")]
    inside = (readings.t_s >= start_s) & (readings.t_s <= stop_s)
    with svg.drawing(_key(phase)):
        figure = svg.new_figure(10, 2.7)
        ax: Axes = figure.subplots()
        ax.plot(t_s - start_s, power, color=svg.MUTED, linewidth=0.8, alpha=0.6, label="load, at the fitted gain")
        ax.plot(t_s - start_s, model, color=svg.SERIES[1], label="fitted model")
        ax.plot(readings.t_s[inside] - start_s, readings.power_w[inside], "o", color=svg.SERIES[0], label="readings", zorder=3)
        ax.set_title("Power in W")
        ax.set_xlabel("Time since the load began in s")
        ax.set_xlim(0, stop_s - start_s)
        ax.legend(loc="upper right", ncols=3, bbox_to_anchor=(1.0, 1.16), borderaxespad=0.0)
        svg.horizontal_grid(ax)
        drawn = svg.inline(figure, prefix=_key(phase), label="Readings under a random load beside the fitted model")
    shown = f"{count(int(inside.sum()))} of {plural(len(readings.t_s), 'reading')}, the first ones, at their update instants"
    caption = (
        f"{phase.instrument}, telegraph ({phase.id}): {shown}; model {best.named_shape.value}, residual "
        f"{number(best.residual_w, digits=2)} W rms over all, which explains {percent(best.explained)} of the variance. {RAW}"
    )
    return Drawing(id=_key(phase), svg=drawn, caption=caption)


def _shown_span(loads: Sequence[WindowRecord], origin_ns: int, found: Identification) -> tuple[float, float]:
    """From just before the first edge on, in seconds from the readings' origin."""
    start_s = (loads[0].t0_ns - origin_ns) / NS_PER_S
    end_s = (loads[-1].t1_ns - origin_ns) / NS_PER_S
    return start_s, min(end_s, start_s + SHOWN_UPDATES * max(found.period.period_s, found.fit.best.width_s / 3))


# --- square wave -----------------------------------------------------------------------------------------------------


def _square_wave(run: RecordedRun, phase: PhaseRecord) -> Drawing:
    """The square wave as it was read; the rising edge beside it."""
    (load,) = windows_named(run, phase, LOAD_ON)
    sensors = [s for s in run.reader.sensors if s.instrument == phase.instrument]
    used = next((s for s in sensors if phase_of_evidence(s.evidence)), sensors[-1]).sensor
    t_ns, power_w = readings_in(run, phase.instrument, phase.t0_ns, int(phase.t1_ns or phase.t0_ns), used.update_period_s)
    t_s = (t_ns - load.t0_ns) / NS_PER_S
    on_s, off_s = 0.0, (load.t1_ns - load.t0_ns) / NS_PER_S
    limit_s = rise_limit_s(used)
    with svg.drawing(_key(phase)):
        figure = svg.new_figure(10, 2.5)
        whole, edge = figure.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
        for ax in (whole, edge):
            ax.axvspan(on_s, off_s, facecolor=svg.BAND, edgecolor="none", zorder=0)
            ax.plot(t_s, power_w, "o-", color=svg.SERIES[0], markersize=2.5, linewidth=0.8)
            ax.set_xlabel("Time since the load began in s")
            svg.horizontal_grid(ax)
        whole.set_xlim(float(t_s[0]), float(t_s[-1]))
        edge.set_xlim(-2 * limit_s, 3 * limit_s)
        edge.axvline(limit_s, color=svg.ALERT, linewidth=1.0, linestyle=(0, (4, 3)), label="limit of the rise")
        edge.legend(loc="lower right")
        whole.set_title("Power in W, load shaded")
        edge.set_title("Rising edge")
        drawn = svg.inline(figure, prefix=_key(phase), label="Square wave of load as the sensor showed it")
    caption = (
        f"{phase.instrument}, square wave ({phase.id}): {plural(len(t_s), 'distinct reading')}, every one drawn. The limit of the rise, "
        f"{duration(limit_s)}, follows from the identified sensor. {RAW}"
    )
    return Drawing(id=_key(phase), svg=drawn, caption=caption)


def phase_of_evidence(evidence: str) -> bool:
    """Whether a sensor model was identified by a phase, and not stated by the device."""
    return "identified" in evidence


# --- counter against integral ----------------------------------------------------------------------------------------


def _mismatch(results: Sequence[ResultRecord]) -> Drawing:
    """Calibration plot: mismatch over the length of the window."""
    ordered = sorted(results, key=lambda r: float(r.coordinates["window_s"]))
    x = np.array([float(r.coordinates["window_s"]) for r in ordered])
    y = 100 * np.array([r.estimate.value or 0.0 for r in ordered])
    bars = 100 * np.array([r.estimate.expanded or 0.0 for r in ordered])
    key = "fig-sensor-mismatch"
    with svg.drawing(key):
        figure = svg.new_figure(10, 2.6)
        ax: Axes = figure.subplots()
        ax.axhline(0.0, color=svg.MUTED, linewidth=0.8)
        ax.errorbar(x, y, yerr=bars, fmt="o", color=svg.SERIES[0], capsize=3, linewidth=1.0, zorder=3, label="measured, 95 %")
        truths = [(float(r.coordinates["window_s"]), 100 * r.truth) for r in ordered if r.truth is not None]
        if truths:
            ax.plot(*zip(*truths, strict=True), "o", markersize=9, markerfacecolor="none", color=svg.SERIES[2], label="truth (twin)")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(list(x)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda v, _: number(v))
        ax.set_xlabel("Length of the window in s, logarithmic")
        ax.set_title("Counter less integral of the readings in %")
        ax.legend(loc="best")
        svg.horizontal_grid(ax)
        drawn = svg.inline(figure, prefix=key, label="Mismatch of energy counter and integral over the length of the window")
    n = ", ".join(r.estimate.estimator for r in ordered)
    caption = f"Mean mismatch with its 95 % interval ({n}); both as they are read, their scales not calibrated. {RAW}"
    return Drawing(id=key, svg=drawn, caption=caption)
