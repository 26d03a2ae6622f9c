"""How far can the Joule curve be trusted? A seeded study on the twin, through the same path as any user.

Run ``python benchmarks/joule_study.py [--sweeps N] [--seed S] [--output docs/joule-study.md]``. The table that it prints, and writes with
``--output``, is generated: nobody types its numbers. Each sweep is one run on a specimen of its own with the ``standard`` profile: decode
at batches 1 to 16, for the law; and at batch 8 three further workloads whose difference from the first is known: none, 5 % more energy,
and a lower clock (a power cap that the first does not meet). Scales are left apart: specimens have gain 1 and offset 0, and the common
scale is taken off the budgets. Exit code 1 where a figure misses its target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from study_page import Row, page, publish

from pytest_physics import Estimate, Session, load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinDevice
from pytest_physics.experiments.joule_curve import Arm, JouleCurve, run_joule_curve
from pytest_physics.metrology.decision import Verdict, decide
from pytest_physics.metrology.uncertainty import Comparison
from pytest_physics.session import Plan
from pytest_physics.workloads.select import language_model_for
from pytest_physics.workloads.twin import PhaseCost, RooflineCosts, TwinLanguageModel

PRESET = "rtx4080-laptop"
SCALELESS = {"u_gain": 0.0, "u_counter_gain": 0.0, "offset_limit_w": 0.0}
BATCHES = (1, 2, 4, 8, 16)
COMPARED = 8
"""Batch at which workloads are compared."""
PLANTED = 1.05
"""Energy of one of them, as a multiple of the first's."""
HUNGRY = 1.4
"""Power share of memory traffic of the one that meets the power cap; ordinary is 0.45."""
UPTURN = 1.05
"""Energy at the largest batch of a planted upturn, as a multiple of what the law says."""
COVERAGE = (0.93, 0.97)
SIGMAS = 1.96


class Slower(TwinLanguageModel):
    """A model that takes a multiple of the time at the same power, and so of the energy: everywhere, or at one batch."""

    def __init__(self, device: TwinDevice, factor: float, *, batch: int | None = None) -> None:
        super().__init__(device)
        self.factor, self.batch = factor, batch

    def decode_cost(self, batch: int, tokens: int, *, context: int) -> PhaseCost:
        """Stretched."""
        cost = super().decode_cost(batch, tokens, context=context)
        return replace(cost, seconds=cost.seconds * (self.factor if self.batch in {None, batch} else 1.0))


@dataclass(slots=True)
class Findings:
    """What all sweeps gave."""

    covered: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    """By quantity: whether the interval held the truth."""
    widths: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By quantity: relative expanded uncertainty."""
    null_differs: list[bool] = field(default_factory=list)
    planted_found: list[bool] = field(default_factory=list)
    mismatch_refused: list[bool] = field(default_factory=list)
    sound_refused: list[str] = field(default_factory=list)
    """Names of the gates that refused a sound comparison or law."""
    comparisons: int = 0
    upturn_found: list[bool] = field(default_factory=list)
    quick_s: list[float] = field(default_factory=list)
    """Real and processor time of quick sweeps, in seconds."""
    quick_cpu_s: list[float] = field(default_factory=list)


def apart_from_scale(estimate: Estimate) -> Estimate:
    """Without the line of the common scale, of which these specimens have no error."""
    return replace(estimate, components=tuple(c for c in estimate.components if not c.common_scale))


def run_one(seed: int, directory: Path, overrides: dict[str, object], work: Callable[[Session], None]) -> None:
    """One run on the specimen of ``seed``."""
    settings = load_settings(directory, overrides={"seed": seed}, profile="standard", virtual_time=True)
    spec = DeviceSpec(kind="twin", parameters={"preset": PRESET, "seed": seed, "overrides": overrides})
    with Session.start(settings, Plan.using({"gpu": spec}), directory=directory) as session:
        work(session)


def decode(batch: int, session: Session, variant: str = "") -> Arm:
    """An arm of the standard profile."""
    chosen = session.settings.experiment
    return Arm(phase="decode", batch=batch, context=chosen.prompt_tokens, new_tokens=chosen.new_tokens, variant=variant)


def study_sweep(found: Findings, seed: int, directory: Path) -> None:
    """One sweep: its law against the truth, and three comparisons whose answer is known."""

    def work(session: Session) -> None:
        gpu = session.rig.gpu
        device = gpu.device
        assert isinstance(device, TwinDevice)
        models = {
            "first": TwinLanguageModel(device), "same": TwinLanguageModel(device), "more": Slower(device, PLANTED),
            "hungry": TwinLanguageModel(device, costs=RooflineCosts(memory_intensity=HUNGRY)),
        }  # fmt: skip
        arms = [decode(batch, session, "first") for batch in BATCHES]
        arms += [decode(COMPARED, session, variant) for variant in models if variant != "first"]
        curve = run_joule_curve(gpu, session, models, arms=arms)
        judge_law(found, session, curve)
        judge_comparisons(found, session, curve)

    run_one(seed, directory, dict(SCALELESS), work)


def judge_law(found: Findings, session: Session, curve: JouleCurve) -> None:
    """Intervals of the law's numbers against the truth."""
    numbers = {
        "E_fixed": curve.fixed(), "E_token, the plateau": curve.per_token_limit(), "break-even batch": curve.break_even(),
        "energy per token, batch 1 to 16": curve.per_token(BATCHES[seed_of(session) % len(BATCHES)]),
    }  # fmt: skip
    for name, estimate in numbers.items():
        stripped, truth = apart_from_scale(estimate), session.truth(estimate.recipe)
        assert truth is not None
        found.covered[name].append(abs(estimate.value - truth) <= stripped.expanded)
        found.widths[name].append(stripped.expanded / abs(estimate.value))
    note_refusals(found, numbers["E_fixed"], numbers["break-even batch"])


def seed_of(session: Session) -> int:
    """The run's seed."""
    return session.settings.seed


def judge_comparisons(found: Findings, session: Session, curve: JouleCurve) -> None:
    """Equal, 5 % more, and at another clock."""
    first = curve.per_token(COMPARED, variant="first")
    ratios = {name: session.evaluate((curve.per_token(COMPARED, variant=name) / first).recipe) for name in ("same", "more", "hungry")}
    note_refusals(found, ratios["same"], ratios["more"])
    found.null_differs.append(abs(ratios["same"].value - 1) > ratios["same"].expanded)
    found.planted_found.append(decide(Comparison.of(ratios["more"], ">=", (1 + PLANTED) / 2)).verdict is Verdict.VALIDATED)
    found.mismatch_refused.append(any(gate.name == "clock parity" and gate.refuses for gate in ratios["hungry"].gates))


def note_refusals(found: Findings, *estimates: Estimate) -> None:
    """Count sound numbers, and the gates that refuse them."""
    for estimate in estimates:
        found.comparisons += 1
        refusing = sorted({gate.name for gate in estimate.gates if gate.refuses})
        found.sound_refused += [", ".join(refusing)] if refusing else []


def study_upturn(found: Findings, seed: int, directory: Path) -> None:
    """A law that turns up at its largest batch must be refused as one."""

    def work(session: Session) -> None:
        gpu = session.rig.gpu
        assert isinstance(gpu.device, TwinDevice)
        model = Slower(gpu.device, UPTURN, batch=BATCHES[-1])
        curve = run_joule_curve(gpu, session, model, arms=[decode(batch, session) for batch in BATCHES])
        found.upturn_found.append(any(gate.name == "lack of fit" and gate.refuses for gate in curve.fixed().gates))

    run_one(seed, directory, dict(SCALELESS), work)


def study_speed(found: Findings, seed: int, directory: Path) -> None:
    """A whole quick sweep as the experiment in ``bench/`` runs it, baselines and records included."""
    settings = load_settings(directory, overrides={"seed": seed, "device": f"twin:{PRESET}"}, virtual_time=True)
    with Session.start(settings, directory=directory) as session:
        gpu = session.rig.gpu
        real_s, cpu_s = time.perf_counter(), time.process_time()
        run_joule_curve(gpu, session, language_model_for(gpu.device))
        found.quick_s.append(time.perf_counter() - real_s)
        found.quick_cpu_s.append(time.process_time() - cpu_s)


# --- table -----------------------------------------------------------------------------------------------------------


def percent(share: float, digits: int = 1) -> str:
    """As a percentage."""
    return f"{100 * share:.{digits}f} %"


def coverage_row(what: str, covered: Sequence[bool], widths: Sequence[float]) -> Row:
    """A row whose figure is a share of intervals; outside of the range by no more than its own scatter is told apart from a miss."""
    share, n = float(np.mean(covered)), len(covered)
    low, high = (float(edge + side * SIGMAS * np.sqrt(edge * (1 - edge) / n)) for edge, side in zip(COVERAGE, (-1, 1), strict=True))
    met = COVERAGE[0] <= share <= COVERAGE[1]
    note = "" if met else f"; {percent(low)} to {percent(high)} with the scatter of such a share"
    verdict = "within scatter" if not met and low <= share <= high else ""
    reached = f"{percent(share)} (n = {n}, U {percent(float(np.median(widths)), 2)}{note})"
    return Row(what=f"95 % intervals of {what}", target="93 to 97 %", reached=reached, met=met, verdict=verdict)


def share_row(what: str, hits: Sequence[bool], target: str, *, least: float | None = None, most: float | None = None) -> Row:
    """A row whose figure is a share of sweeps; one above ``most`` by no more than its own scatter is told apart from a miss."""
    share, n = float(np.mean(hits)), len(hits)
    met = (least is None or share >= least) and (most is None or share <= most)
    bound = most + SIGMAS * float(np.sqrt(most * (1 - most) / n)) if most is not None and least is None else -1.0
    note = f"; up to {percent(bound)} with the scatter of such a share" if not met and share <= bound else ""
    verdict = "within scatter" if note else ""
    return Row(what=what, target=target, reached=f"{percent(share)} (n = {n}{note})", met=met, verdict=verdict)


def table(found: Findings) -> list[Row]:
    """All rows."""
    refused = [bool(names) for names in found.sound_refused] + [False] * (found.comparisons - len(found.sound_refused))
    by = f", by: {'; '.join(sorted(set(found.sound_refused)))}" if found.sound_refused else ""
    sound = share_row("sound laws and comparisons refused by a gate", refused, "≤ 5 %", most=0.05)
    slowest, cpu = max(found.quick_s), max(found.quick_cpu_s)
    return [
        *(coverage_row(name, values, found.widths[name]) for name, values in found.covered.items()),
        share_row("a planted difference of 5 % found (the ratio proven ≥ 1.025)", found.planted_found, "≥ 95 %", least=0.95),
        share_row("equal arms called different", found.null_differs, "≤ 5 %", most=0.05),
        share_row("arms at different clocks refused by clock parity", found.mismatch_refused, "100 %", least=1.0),
        replace(sound, reached=sound.reached + by),
        share_row("a planted upturn of 5 % at the largest batch refused as lack of fit", found.upturn_found, "≥ 95 %", least=0.95),
        Row(
            what="real time of a quick sweep on the twin, baselines and records included", target="≤ 10 s",
            reached=f"{slowest:.1f} s, {cpu:.1f} s of processor time (slowest of {len(found.quick_s)})",
            met=slowest <= 10, verdict="met in processor time" if cpu <= 10 < slowest else "",
        ),
    ]  # fmt: skip


def introduction(sweeps: int) -> tuple[str, ...]:
    """What the table is about."""
    return (
        f"{sweeps} sweeps with the `standard` profile on as many specimens of `{PRESET}`, each a run of its own. Intervals are those of",
        "net energies with the instrument's scale left apart; U is the median of the relative expanded uncertainties. The truth of a",
        "number is the same formula on the true energies of the same windows. 'Within scatter' is a share outside of its range by no",
        "more than its own scatter (1.96 standard deviations).",
    )


def run(sweeps: int, seed: int, say: Callable[[str], None]) -> list[Row]:
    """The whole study."""
    found, start = Findings(), time.perf_counter()
    for number in range(sweeps):
        with tempfile.TemporaryDirectory() as name:
            study_sweep(found, 1000 * seed + number, Path(name))
            if number % 5 == 0:
                study_upturn(found, 1000 * seed + number, Path(name))
            if number < 3:
                study_speed(found, 1000 * seed + number, Path(name))
        if (number + 1) % 20 == 0:
            say(f"sweep {number + 1} of {sweeps}, {time.perf_counter() - start:.0f} s")
    return table(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    rows = run(chosen.sweeps, chosen.seed, lambda line: print(line, file=sys.stderr, flush=True))
    command = f"python benchmarks/joule_study.py --sweeps {chosen.sweeps} --seed {chosen.seed}"
    title = "How far can the Joule curve be trusted? A study on the twin"
    return publish(page(title, command, introduction(chosen.sweeps), rows), chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
