"""How well is the VRAM cliff foreseen and found? A seeded study on twins, and on this machine's CPU under an address-space limit.

Run ``python benchmarks/vram_study.py [--shapes N] [--seed S] [--output docs/vram-study.md]``. Models of random shape are searched on the
twin through session, probers and recipes as in any run; the twin knows the true limit. The CPU has no truth but its own refusals: there
the prediction is compared with what the search finds. Exit code 1 where a figure misses its target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from study_page import Row, page, publish

from pytest_physics import Session, load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ChannelUnavailableError, InvalidMeasurement
from pytest_physics.experiments.vram_cliff import VramCliff, run_vram_cliff
from pytest_physics.metrology.memory import ModelSizes
from pytest_physics.session import Plan
from pytest_physics.workloads.memory_probe import ModelSpec
from pytest_physics.workloads.probers import SMALL, ProcessProber, Subject, TwinProber

PRESETS = ("a100", "h100", "v100", "rtx4080-laptop")
"""The last one pages to the host: its cliff is one of time."""
NAMED = ("llama-3.2-1b", "qwen2.5-1.5b", "gpt2")
DTYPES = ("float16", "float32")
RANDOM = "models of random shape, twin"
NAMED_CPU = "three models, two number formats, CPU"
CPU_RESOLUTION = 1 / 64
GROUPED = ModelSpec(
    name="grouped heads",
    model_type="llama",
    arguments={
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
        "vocab_size": 16384, "max_position_embeddings": 65536, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    },
)  # fmt: skip
WIDE = ModelSpec(
    name="wide vocabulary",
    model_type="gpt2",
    arguments={
        "n_layer": 1, "n_embd": 128, "n_head": 8, "vocab_size": 24576, "n_positions": 8192, "bos_token_id": 0, "eos_token_id": 0,
    },
)  # fmt: skip

WINDOWED = ModelSpec(
    name="sliding window",
    model_type="mistral",
    arguments={
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
        "sliding_window": 256, "vocab_size": 2048, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    },
)  # fmt: skip
"""Fused attention with a mask of all positions: memory grows with the square, and nothing in its name says so."""


@dataclass(slots=True)
class Findings:
    """What all searches gave."""

    error: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Relative, of the bytes predicted at the found cliff."""
    predicted: list[bool] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    too_small: int = 0
    """Random models that do not fit at all, or whose limit is the architecture's: no cliff of memory to foresee."""


@contextmanager
def twin(preset: str, directory: Path) -> Iterator[Session]:
    """A run on one twin."""
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": preset, "seed": 0})})
    with Session.start(load_settings(directory), plan, directory=directory) as session:
        yield session


def random_sizes(random: np.random.Generator) -> ModelSizes:
    """A transformer of some shape, without a last position."""
    heads = int(random.choice([8, 12, 16, 32]))
    return ModelSizes(
        layers=int(random.integers(4, 48)), heads=heads, kv_heads=int(random.choice([1, 2, 4]) if heads % 4 == 0 else 1),
        head_dim=int(random.choice([64, 128])), width=int(random.integers(512, 4096)), vocabulary=int(random.integers(5000, 150_000)),
        parameters=int(random.uniform(1e8, 3e9)), bytes_per_number=int(random.choice([2, 4])),
    )  # fmt: skip


def record(found: Findings, rig: str, cliff: VramCliff, session: Session) -> None:
    """Take down one search."""
    try:
        found.error[rig].append(cliff.prediction_error.value)
    except ChannelUnavailableError:
        found.too_small += 1
        return
    found.reasons[str(cliff.reason)] += 1
    found.probes.append(cliff.probes.value)
    found.spread.append(cliff.spread.value)
    for estimate, held in ((cliff.predicted, found.predicted), (cliff.found, found.found)):
        truth = session.truth(estimate.recipe)
        if truth is not None:
            low, high = estimate.interval
            held.append(low <= truth + 1 and truth <= high + 1)


def study_twin(found: Findings, shapes: int, seed: int, directory: Path) -> None:
    """Random shapes over all presets, both kinds of attention, both axes; and five passes of the named models."""
    random = np.random.default_rng(seed)
    for preset in PRESETS:
        with twin(preset, directory) as session:
            gpu = session.rig.gpu
            for number in range(shapes // len(PRESETS)):
                sizes, attention = random_sizes(random), str(random.choice(["sdpa", "eager"]))
                subject = Subject(name=f"random {number}", dtype=DTYPES[sizes.bytes_per_number == 4], attention=attention, sizes=sizes)
                axis, other = ("batch", 128) if number % 4 == 3 else ("context", 1)
                try:
                    cliff = run_vram_cliff(gpu, session, TwinProber(gpu.device, subject), axis=axis, other=other)
                except InvalidMeasurement:
                    found.too_small += 1
                    continue
                record(found, RANDOM, cliff, session)
            for model in NAMED:
                for dtype in DTYPES:
                    prober = TwinProber(gpu.device, model, dtype=dtype)
                    prober.subject = replace(prober.subject, sizes=replace(prober.subject.sizes, max_positions=None))
                    record(found, "three models, two number formats, twin", run_vram_cliff(gpu, session, prober, repeats=5), session)


def study_cpu(found: Findings, directory: Path) -> None:
    """Three shapes in two number formats, each probe a process under ``RLIMIT_AS``."""
    plan = Plan.using({"cpu": DeviceSpec(kind="cpu")})
    with Session.start(load_settings(directory), plan, directory=directory) as session:
        for spec in (SMALL, GROUPED, WIDE, WINDOWED):
            for dtype in ("float32", "bfloat16"):
                rig = "a mask that grows with the square, two number formats, CPU" if spec is WINDOWED else NAMED_CPU
                prober = ProcessProber(replace(spec, dtype=dtype))
                try:
                    record(
                        found,
                        rig,
                        run_vram_cliff(session.rig.cpu, session, prober, resolution=CPU_RESOLUTION),
                        session,
                    )
                finally:
                    prober.close()


def table(found: Findings) -> list[Row]:
    """Every figure with its target."""
    rows = []
    for rig, errors in found.error.items():
        worst, p95 = float(np.max(np.abs(errors))), float(np.quantile(np.abs(errors), 0.95))
        reached = f"largest {100 * worst:.2f} %, p95 {100 * p95:.2f} % (n = {len(errors)})"
        target, met = ("≤ 3 % p95", p95 <= 0.03) if rig == RANDOM else ("≤ 3 %", worst <= 0.03)
        rows.append(Row(what=f"prediction error in bytes over the capacity, {rig}", target=target, reached=reached, met=met))
    rows += [share("95 % intervals of the prediction that hold the true limit, twin", found.predicted)]
    rows += [share("brackets of the search that hold the true limit, twin", found.found)]
    spread, probes = max(found.spread), max(found.probes)
    rows.append(Row(what="largest difference between passes (2 to 5 each)", target="≤ 1 step", reached=f"{spread:.2f}", met=spread <= 1))
    rows.append(Row(what="probes of the longest pass", target="≤ 25", reached=f"{probes:.0f}", met=probes <= 25))
    ended = ", ".join(f"{reason} {count}" for reason, count in sorted(found.reasons.items()))
    left_out = f"{ended}; left out, because they have no cliff of memory: {found.too_small}"
    return [*rows, Row(what="why the searches ended", target="–", reached=left_out, met=True, verdict="–")]


def share(what: str, held: Sequence[bool]) -> Row:
    """A share of intervals with its count."""
    reached = sum(held) / len(held)
    return Row(what=what, target="≥ 93 %", reached=f"{100 * reached:.1f} % (n = {len(held)})", met=reached >= 0.93)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", type=int, default=200, help="random models on the twin")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    found = Findings()
    with tempfile.TemporaryDirectory() as name:
        study_twin(found, chosen.shapes, chosen.seed, Path(name))
        study_cpu(found, Path(name))
    rows = table(found)
    introduction = [
        f"Models of random shape and three named ones on the twins {', '.join(PRESETS)}, in both kinds of attention and over context and",
        "batch; four shapes in two number formats on a CPU, each probe a fresh process under an address-space limit. CUDA runs the same",
        "code with torch's allocator; it has not been measured for this page.",
    ]
    text = page(
        "Is the VRAM cliff foreseen and found?",
        f"python benchmarks/vram_study.py --shapes {chosen.shapes} --seed {chosen.seed}",
        introduction,
        rows,
    )
    return publish(text, chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
