"""Prediction and search of the cliff on twins, whose truth is known; and how a search ends early."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin.memory import rounding_bytes, true_limit, true_peak_bytes
from pytest_physics.errors import ChannelUnavailableError, InvalidMeasurement
from pytest_physics.experiments.vram_cliff import PREDICTING, SHARES, run_vram_cliff
from pytest_physics.metrology.memory import MemoryPoint, ModelSizes, Outcome, fit_bytes
from pytest_physics.metrology.uncertainty import Component, expanded_uncertainty
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import CHECKS, verify_run
from pytest_physics.report.build import build_report
from pytest_physics.report.pages import fragmentation as fragmentation_page
from pytest_physics.report.pages.memory import accounts_of, memory_maps
from pytest_physics.session import Plan, Session
from pytest_physics.vram import monitor_for
from pytest_physics.workloads.allocator import alternate_frees
from pytest_physics.workloads.probers import TWIN_FOREIGN_BYTES, Subject, TwinProber, known_sizes, tortured

GIB = 2**30


def started(tmp_path, preset="a100", **parameters):
    spec = DeviceSpec(kind="twin", parameters={"preset": preset, **parameters})
    return Session.start(load_settings(tmp_path), Plan.using({"gpu": spec}), directory=tmp_path)


@pytest.fixture
def session(tmp_path):
    with started(tmp_path) as found:
        yield found


def cliff_of(session, model="llama-3.2-1b", *, attention="sdpa", dtype="float16", **options):
    gpu = session.rig.gpu
    return run_vram_cliff(gpu, session, TwinProber(gpu.device, model, attention=attention, dtype=dtype), **options)


@pytest.mark.parametrize("preset", ["a100", "rtx4080-laptop"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cliff_is_predicted_and_found(tmp_path, preset, attention):
    """Three shapes, two number formats, both kinds of attention: found where it truly is, foreseen to 3 % of the memory."""
    with started(tmp_path, preset) as session:
        for model in ("llama-3.2-1b", "qwen2.5-1.5b", "gpt2"):
            for dtype in ("float16", "float32"):
                sizes = replace(known_sizes(model, dtype), max_positions=None)
                cliff = cliff_of(session, Subject(name=model, dtype=dtype, attention=attention, sizes=sizes), repeats=1)
                low, high = cliff.found.interval
                truth = session.truth(cliff.found.recipe)
                assert low - 0.03 * truth <= truth <= high + 0.03 * truth
                assert abs(cliff.prediction_error.value) <= 0.03, (model, dtype)
                assert cliff.reason is (Outcome.SPILL if preset == "rtx4080-laptop" else Outcome.OUT_OF_MEMORY)


def test_found_interval_holds_the_truth(session):
    """The bracket is an interval for the last size that fits."""
    cliff = cliff_of(session)
    half = cliff.found.expanded / 0.95  # the whole bracket
    assert abs(cliff.found.value - session.truth(cliff.found.recipe)) <= half + 1e-6
    assert cliff.found.provenance == "simulated"


def test_search_repeats_to_one_step(session):
    """Five passes, upwards and downwards in turn, differ by at most one step; each takes at most 25 probes."""
    cliff = cliff_of(session, repeats=5)
    assert cliff.spread.value <= 1.0
    assert cliff.probes.value <= 25
    probes = session.probes(cliff.search)
    assert sum(p.part == "prediction" for p in probes) <= PREDICTING
    assert {p.repeat for p in probes} == set(range(6))


def test_the_way_down_comes_from_beyond(session):
    """The second pass starts where nothing fits, and probes sizes that the first did not: hysteresis would show."""
    cliff = cliff_of(session)
    up, down = ([p for p in session.probes(cliff.search) if p.part == part] for part in ("upwards", "downwards"))
    assert down[0].context > max(p.context for p in up if p.outcome == "FITS")
    assert down[0].outcome == "OUT_OF_MEMORY"


def test_gpt2_xl_ends_by_architecture(session):
    """TR122 searched to 1,024 and called it a pass: the limit is the model's, and there is no cliff to compare with."""
    cliff = cliff_of(session, "gpt2-xl")
    assert (cliff.found.value, cliff.found.expanded) == (1024.0, 0.0)
    assert cliff.limited_by(Outcome.ARCHITECTURE_LIMIT).value == 1.0
    assert cliff.limited_by(Outcome.OUT_OF_MEMORY).value == 0.0
    with pytest.raises(ChannelUnavailableError, match="not memory's"):
        _ = cliff.prediction_error
    with pytest.raises(ChannelUnavailableError, match="nothing spilled"):
        _ = cliff.slowdown


def test_gpt2_does_not_exhaust_12_gb_at_3000_tokens(tmp_path):
    """As one report said: with positions enough, the cache of GPT-2 alone would need more than 300,000 tokens for it."""
    sizes = replace(known_sizes("gpt2"), max_positions=None)
    with started(tmp_path, "rtx4080-laptop") as session:
        gpu = session.rig.gpu
        cliff = run_vram_cliff(
            gpu, session, TwinProber(gpu.device, Subject(name="gpt2, unlimited", dtype="float16", attention="sdpa", sizes=sizes))
        )
        assert cliff.cache_per_token.value == 36 * 1024
        assert cliff.found.value > 10 * 3000


def test_spill_is_seen_by_time(tmp_path):
    """A driver that pages gives no error; the pass takes more than five times the trend, and the classification says so."""
    with started(tmp_path, "rtx4080-laptop") as session:
        cliff = cliff_of(session)
        assert cliff.reason is Outcome.SPILL
        assert cliff.slowdown.value > 5.0
        assert all(probe.outcome == "FITS" for probe in session.probes(cliff.search))


def test_a_probe_beyond_its_time_is_killed(tmp_path):
    """The size that cannot finish does not fit, and the search ends there."""
    with started(tmp_path, "rtx4080-laptop") as session:
        gpu = session.rig.gpu
        cliff = run_vram_cliff(gpu, session, TwinProber(gpu.device, limit_s=0.9))
        assert cliff.reason is Outcome.KILLED


def test_a_model_larger_than_the_device(tmp_path):
    """Nothing to search: the message has weights, capacity and a next step."""
    with started(tmp_path, "k40") as session, pytest.raises(InvalidMeasurement, match=r"14\.96 GiB.*capacity is 11\.94 GiB.*smaller model"):
        cliff_of(session, "llama-3-8b")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
def test_a_model_that_fills_most_of_the_device_is_foreseen(session, share):
    """Well below is meant of what the weights leave: Llama-3-8B on a card of 24 GiB has a cliff too."""
    sizes = replace(known_sizes("llama-3-8b"), max_positions=None, parameters=int(share * 40 * GIB / 2))
    cliff = cliff_of(session, Subject(name="large", dtype="float16", attention="sdpa", sizes=sizes))
    assert abs(cliff.prediction_error.value) <= 0.03
    assert cliff.prediction_distance.value <= 1.0


def test_a_prediction_without_probes_is_refused_and_nothing_is_lost(session):
    """Weights of 99.9 % leave no room for probes below the limit: the search stands, the prediction says why it does not."""
    sizes = replace(
        known_sizes("llama-3-8b"), max_positions=None, parameters=int(0.999 * TwinProber(session.rig.gpu.device).capacity_bytes / 2)
    )
    with contextlib.suppress(InvalidMeasurement):
        cliff_of(session, Subject(name="huge", dtype="float16", attention="sdpa", sizes=sizes))
    assert session.probe_records


def test_foreign_memory_ends_the_search_with_its_pid(tmp_path):
    """A process that comes in mid-search moves the limit: INVALID, and it is named."""
    fault = {"kind": "foreign_process", "start_s": 0.5}
    with started(tmp_path, "a100", faults=[fault]) as session, pytest.raises(InvalidMeasurement, match="pid 4242"):
        cliff_of(session)


def test_foreign_memory_that_stays_is_no_reason(tmp_path):
    """Who was there before and stays is a part of the capacity."""
    fault = {"kind": "foreign_process", "start_s": 0.0}
    with started(tmp_path, "a100", faults=[fault]) as session:
        cliff = cliff_of(session)
        assert next(gate for gate in cliff.found.gates if gate.name == "foreign memory").passed
        assert cliff.held("other processes").value == TWIN_FOREIGN_BYTES
        low, high = cliff.found.interval
        assert low - 1 <= session.truth(cliff.found.recipe) <= high + 1, "the limit is that of what the others leave"
        assert abs(cliff.prediction_error.value) <= 0.03


def test_nobody_else_is_a_number_too(session):
    """No other process: 0 bytes, said; and no caching allocator took part, so slack is not a number."""
    cliff = cliff_of(session, repeats=1)
    assert cliff.held("other processes").value == 0.0
    with pytest.raises(ChannelUnavailableError, match="no caching allocator"):
        cliff.held("allocator slack")


def test_prediction_intervals_hold_the_truth():
    """Over shapes, capacities and both kinds of attention at least 93 % of the intervals hold the true cliff."""
    random = np.random.default_rng(7)
    held = total = 0
    while total < 300:
        heads = int(random.choice([8, 12, 16, 32]))
        sizes = ModelSizes(
            layers=int(random.integers(4, 48)), heads=heads, kv_heads=int(random.choice([1, 2, 4]) if heads % 4 == 0 else 1),
            head_dim=int(random.choice([64, 128])), width=int(random.integers(512, 4096)), vocabulary=int(random.integers(5000, 150_000)),
            parameters=int(random.uniform(1e8, 3e9)), bytes_per_number=int(random.choice([2, 4])),
        )  # fmt: skip
        eager, capacity = bool(random.integers(2)), int(random.uniform(16, 80) * GIB)
        truth = true_limit(sizes, capacity, axis="context", other=1, eager=eager)
        if truth < 2000:
            continue
        room = capacity - true_peak_bytes(sizes, batch=1, context=64, eager=eager)
        contexts = [64, 256, *(int(truth * (share if not eager else share**0.5)) for share in SHARES)]
        peaks = [true_peak_bytes(sizes, batch=1, context=c, eager=eager) for c in contexts]
        if room < 0 or max(peaks) > 0.6 * capacity:
            continue
        points = [MemoryPoint(batch=1, context=c, outcome=Outcome.FITS, peak_bytes=p) for c, p in zip(contexts, peaks, strict=True)]
        fit = fit_bytes(points, kv_bytes_per_token=sizes.kv_bytes_per_token, quadratic=eager, rounding_bytes=rounding_bytes(sizes))
        at = {"batch": 1.0, "context": float(truth)}
        parts = [Component(label="fit", source="f", contribution=fit.u_scatter(**at), dof=fit.dof)]
        parts += [Component(label="beyond", source="e", contribution=fit.u_extrapolation(**at))]
        step = true_peak_bytes(sizes, batch=1, context=truth, eager=eager)
        held += abs(fit.at(**at) - step) <= expanded_uncertainty(parts)
        total += 1
    assert held / total >= 0.93, held / total


def test_batch_axis(session):
    """The same search over the batch, at a fixed context."""
    cliff = cliff_of(session, axis="batch", other=256)
    assert abs(cliff.found.value - session.truth(cliff.found.recipe)) <= 2
    assert cliff.found.unit == "sequence"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repeats": 0}, "'repeats' and 'other'"), ({"other": 0}, "'repeats' and 'other'"), ({"axis": "depth"}, "'axis' must be"),
        ({"resolution": -0.1}, "'resolution'"), ({"resolution": 1.0}, "'resolution'"),
    ],
)  # fmt: skip
def test_wrong_searches_are_refused_before_they_begin(session, options, words):
    """No probe is run for them."""
    with pytest.raises(ValueError, match=words):
        cliff_of(session, **options)
    assert not session.probe_records


def test_a_fixed_context_beyond_the_positions(session):
    """The message is about positions, and nothing about memory."""
    with pytest.raises(InvalidMeasurement, match=r"has 1024 positions.*Choose a context of at most 1024") as told:
        cliff_of(session, "gpt2", axis="batch", other=2048)
    assert "GiB" not in str(told.value)


def test_what_this_run_holds_is_no_limit_of_the_card(tmp_path):
    """The cliff is that of what is left, its account says who holds the rest, and the record verifies."""
    with started(tmp_path, "a100") as session:
        session.rig.gpu.device.allocate(10 * GIB)
        cliff = cliff_of(session, repeats=1)
        assert abs(cliff.prediction_error.value) <= 0.03
        assert cliff.held("other processes").value == 10 * GIB
    assert [p for p in CHECKS["memory"](RecordedRun(session.path)) if p is not None] == []


# --- the record of it -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with one search, one watch and a report."""
    directory = tmp_path_factory.mktemp("cliff")
    session = started(directory, "rtx4080-laptop")
    cliff_of(session)
    monitor = monitor_for(session.rig.gpu, session)
    with monitor.watch("a block") as watch:
        monitor.allocator.allocate(GIB)
        watch.look()
    session.result("memory", "peak", watch.peak)
    session.finish(publish=build_report)
    return session.path


def test_run_verifies(finished):
    """Every number follows from ``probes.jsonl`` and ``allocations.jsonl``, in another process's words too."""
    found = verify_run(finished)
    assert found.findings == ()
    assert found.checked["memory"] > 20


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("probes.jsonl", "peak_bytes", 1), ("probes.jsonl", "seconds", 1e-9), ("probes.jsonl", "context", 77),
        ("probes.jsonl", "outcome", "KILLED"),
        ("probes.jsonl", "capacity_bytes", 12345), ("probes.jsonl", "t0_ns", 10**18), ("probes.jsonl", "id", "gpu-c1.99"),
        ("probes.jsonl", "rounding_bytes", 5), ("probes.jsonl", "foreign", {"1 x": 5}), ("probes.jsonl", "axis", "batch"),
        ("allocations.jsonl", "peak_bytes", 1), ("allocations.jsonl", "id", "gpu-a7"),
    ],
)  # fmt: skip
def test_edited_records_are_found(finished, tmp_path, file, field, value):
    """One edited value of one line, with no help from the manifest."""
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    lines = (run / file).read_text(encoding="utf-8").splitlines()
    edited = json.loads(lines[-1]) | {field: value}
    (run / file).write_text("\n".join([*lines[:-1], json.dumps(edited)]) + "\n", encoding="utf-8")
    recorded = RecordedRun(run)
    problems = []
    for name in ("memory", "results"):
        try:
            problems += [p for p in CHECKS[name](recorded) if p is not None]
        except Exception as error:  # noqa: BLE001 -- verify_run turns whatever a check raises into a finding
            problems.append(error)
    assert problems


def test_memory_map_is_drawn(finished):
    """One figure with capacity, predicted and found cliff, probes by outcome, and the time curve; in the report too."""
    (drawing,) = memory_maps(RunReader(finished))
    for words in ("weights", "key-value cache", "activations", "workspace", "capacity", "predicted", "found", "spilled", "trend"):
        assert words in drawing.svg
    assert "SPILL" in drawing.caption
    assert "Found between 1" in drawing.caption
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "Where the bytes are" in page
    assert drawing.id in page
    assert "Understanding this" in page


def test_account_adds_up(finished):
    """Parts make up the pass; the pass and what is left make up the capacity."""
    (table,) = accounts_of(RunReader(finished))
    value = {
        row[0]: float(row[1].split()[0].replace(",", "").replace("\u202f", "").replace("\u2212", "-") or 0)
        for row in table.rows
        if row[1] != "–"
    }
    parts = [value[name] for name in ("weights", "key-value cache", "activations, logits, scores", "workspace, rounding")]
    assert sum(parts) == pytest.approx(value["all of the pass"], abs=0.02)
    assert value["all of the pass"] + value["left of the capacity"] == pytest.approx(11.5, abs=0.02)
    assert value["other processes, beyond the capacity"] == 0
    assert next(row for row in table.rows if row[0] == "allocator slack")[1:] == ["–", "–", "no caching allocator took part"]


def test_torture_is_drawn_with_its_holes(tmp_path):
    """Fragmentation along each pattern, its worst moment, and what it cost; short watches are no course."""
    with started(tmp_path, "rtx4080-laptop") as session:
        monitor = monitor_for(session.rig.gpu, session)
        watch = monitor.torture("alternate frees", tortured(session.rig.gpu.device, alternate_frees()))
        with monitor.watch("a block"):
            pass
        session.result("VRAM fragmentation", "at its worst", watch.fragmentation)
        assert watch.refused.value == 0
    run = RecordedRun(session.path)
    (drawing,) = fragmentation_page.drawings(run, [])
    (table,) = fragmentation_page.tables(run, [])
    assert "alternate frees" in drawing.svg
    assert [row[:3] for row in table.rows] == [["alternate frees", "50.5 %", "50.5 %"]]
