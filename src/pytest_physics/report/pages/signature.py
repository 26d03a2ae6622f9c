"""Thermal signatures in the report: every feature with every replicate, the table, and how often the replicates name each other right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pytest_physics.errors import PhysicsError
from pytest_physics.metrology.signature import UNITS, classify
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.signature import replicates_of, workloads_of
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import ABSENT, plural, quantity, shown_unit, slug
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "A signature is what one device does under one workload: how much power it draws above idle, how far it warms and how fast, what "
    "a step costs, how much of the time it is slowed down. Each small panel is one feature; every dot is a replicate, measured from "
    "the same start temperature in shuffled order, and the bar is the 95 % interval of the mean. Where the dots of two workloads do "
    "not overlap, that feature tells them apart. The classification leaves each replicate out in turn and asks the others to name it; "
    "it counts only against chance, and against the same on shuffled labels. A single run has no spread, so it is no signature. Fewer "
    "than some minutes of load show the temperature of the die, not of the heat sink: the steady values are those of the load's "
    "length."
)
MAX_FEATURES = 8
ORDER = (
    "power_above_idle_w",
    "steady_rise_c",
    "resistance_k_per_w",
    "time_constant_s",
    "energy_per_step_j",
    "energy_per_step_cv",
    "throttle_share",
    "memory_utilisation_ratio",
    "utilisation_ratio",
    "spectrum_peak_hz",
    "utilisation_spread",
)
WORDS = {
    "power_above_idle_w": "Power above idle",
    "steady_rise_c": "Steady rise",
    "resistance_k_per_w": "Thermal resistance",
    "time_constant_s": "Time constant",
    "energy_per_step_j": "Energy per step",
    "energy_per_step_cv": "Spread of energy per step",
    "throttle_share": "Share of time slowed",
    "memory_utilisation_ratio": "Memory utilisation",
    "utilisation_ratio": "Utilisation",
    "spectrum_peak_hz": "Strongest line of the power",
    "utilisation_spread": "Spread of utilisation",
}


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:
    """Small multiples for each device."""
    return [_features(run, r, results) for r in results if r.recipe["op"] == "signature.accuracy"]


def _features(run: RecordedRun, accuracy: ResultRecord, results: Sequence[ResultRecord]) -> Drawing:
    instrument = str(accuracy.coordinates["instrument"])
    key = f"fig-signature-{slug(instrument)}-{slug(accuracy.id)}"
    replicates = replicates_of(accuracy.recipe["parameters"], run)
    workloads = workloads_of(replicates)
    means = _means(results, instrument)
    names = [name for name in ORDER if all(np.isfinite(r.features[name]) for r in replicates)][:MAX_FEATURES]
    if not names or not workloads:
        return Drawing(
            id=key, svg="", caption=f"{instrument}: no feature is known for every one of {plural(len(replicates), 'replicate')}."
        )
    rows = -(-len(names) // 4)
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.5 + 2.1 * rows)
        panels: list[Axes] = list(figure.subplots(rows, 4, squeeze=False).ravel())
        for ax, name in zip(panels, names, strict=False):
            for at, workload in enumerate(workloads):
                own = [r.features[name] for r in replicates if r.workload == workload]
                ax.plot(np.full(len(own), at), own, "o", color=svg.SERIES[at % len(svg.SERIES)], markersize=3.5, alpha=0.7)
                mean = means.get((workload, name))
                if mean is not None and mean.estimate.value is not None:
                    ax.errorbar(
                        at + 0.25, mean.estimate.value, yerr=mean.estimate.expanded, fmt="_", color=svg.INK, capsize=2, linewidth=0.9
                    )
            unit = shown_unit(UNITS[name])
            ax.set_title(f"{WORDS[name]}{f' in {unit}' if unit else ''}")
            ax.set_xticks(range(len(workloads)), [workload.replace(" ", "\n") for workload in workloads])
            ax.set_xlim(-0.5, len(workloads) - 0.3)
            svg.horizontal_grid(ax)
        for ax in panels[len(names) :]:
            ax.set_axis_off()
        drawn = svg.inline(figure, prefix=key, label=f"Features of {', '.join(workloads)} on {instrument}, a dot for each replicate")
    cells = f"{plural(len(replicates), 'replicate')} of {plural(len(workloads), 'workload')}"
    caption = f"{instrument}: {cells}; bars: 95 % intervals of the means. {RAW}"
    return Drawing(id=key, svg=drawn, caption=caption)


def _means(results: Sequence[ResultRecord], instrument: str) -> dict[tuple[str, str], ResultRecord]:
    return {
        (str(r.coordinates["workload"]), str(r.recipe["parameters"]["feature"])): r
        for r in results
        if r.recipe["op"] == "signature.feature" and r.coordinates["instrument"] == instrument
    }


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Table]:
    """Features by workload, and who was named what."""
    found: list[Table] = []
    for accuracy in (r for r in results if r.recipe["op"] == "signature.accuracy"):
        instrument = str(accuracy.coordinates["instrument"])
        means = _means(results, instrument)
        workloads = sorted({workload for workload, _ in means})
        rows = [(WORDS[name], *(_cell(means.get((workload, name))) for workload in workloads)) for name in ORDER]
        columns = ("Feature", *workloads)
        found.append(Table(caption=f"Signatures on {instrument}", columns=columns, rows=rows, numeric=frozenset(range(1, len(columns)))))
        found += _confusion(run, accuracy, instrument)
    return found


def _cell(r: ResultRecord | None) -> str:
    if r is None or r.estimate.value is None:
        return ABSENT
    return str(quantity(r.estimate.value, r.estimate.expanded, r.estimate.unit))


def _confusion(run: RecordedRun, accuracy: ResultRecord, instrument: str) -> list[Table]:
    try:
        found = classify(replicates_of(accuracy.recipe["parameters"], run))
    except PhysicsError:
        return []
    rows = [(workload, *map(str, found.confusion[row].tolist())) for row, workload in enumerate(found.workloads)]
    caption = f"Replicates on {instrument}, by what the others name them: {found.right} of {found.n} right, by chance {found.chance:.0%}"
    columns = ("Truly", *(f"named {workload}" for workload in found.workloads))
    return [Table(caption=caption, columns=columns, rows=rows, numeric=frozenset(range(1, len(columns))))]
