"""``pytest-physics import rle``: run directories that verify, replay, and show what is wrong with the recording."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rle_recordings import JOINT, file
from typer.testing import CliRunner

from pytest_physics.cli import app
from pytest_physics.config import Settings
from pytest_physics.devices.discover import choose_devices, open_device
from pytest_physics.errors import ConfigurationError, RecordError
from pytest_physics.metrology.coupling import couple
from pytest_physics.metrology.instability import INSTABILITY, RULES
from pytest_physics.metrology.matching import align
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.rle_import import STEPS_TABLE, grid, import_rle, offsets_of
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan


def imported(tmp_path, *files):
    found = import_rle(files, tmp_path / "runs", settings=Settings())
    assert all(verify_run(run.path).passed for run in found.runs), [verify_run(run.path).findings for run in found.runs]
    return found


@pytest.fixture
def joint(tmp_path):
    """One joint session with its log."""
    found = imported(tmp_path, file(f"joint_sessions/{JOINT[0]}/rle_data_*.csv"), file(f"joint_sessions/{JOINT[0]}/training_log_*.json"))
    return RecordedRun(found.runs[0].path)


def gates(run, channel):
    results = [json.loads(line) for line in (run.reader.path / "results.jsonl").read_text().splitlines()]
    found = next(
        result for result in results if result["coordinates"].get("channel") == channel and result["coordinates"]["instrument"] == "cpu"
    )
    return found["estimate"], {gate["name"]: gate for gate in found["gates"]}


def test_a_joint_session_becomes_a_run_that_verifies(joint):
    """Two instruments, 180 rows each, 200 steps on the same clock, the logged index beside them."""
    assert [len(joint.trace(name)) for name in ("cpu", "gpu")] == [180, 180]
    steps = joint.table(STEPS_TABLE)
    assert len(steps) == 200
    assert set(steps.dtype.names) == {"t_ns", "step", "loss", "grad_norm", "learning_rate"}
    assert joint.trace("gpu").t_ns[0] < steps["t_ns"][0] < steps["t_ns"][-1] < joint.trace("gpu").t_ns[-1]
    assert joint.table("logged-cpu-1")["collapse"].sum() > 10


def test_the_imported_run_gives_the_same_verdict(joint):
    """All analyses run on it: the published coupling of the session is not supported."""
    steps, trace = joint.table(STEPS_TABLE), joint.trace("gpu")
    logged = joint.table("logged-gpu-1")["rle_smoothed"]
    found = couple(align(steps["t_ns"] / 1e9, {"grad": steps["grad_norm"]}, trace.t_ns / 1e9, {"rle": logged}), "grad", "rle")
    assert not found.supported
    assert found.analyses["as measured"].pearson.n_eff == pytest.approx(39.3, abs=0.2)


def test_constants_are_gates_and_assumed(joint):
    """50 °C is a failed gate of the mean temperature, and its provenance says that it was never measured."""
    estimate, found = gates(joint, "temperature_c")
    assert estimate["provenance"] == "assumed"
    assert not found["constant channel"]["passed"]
    utilisation, passing = gates(joint, "utilisation_cpu_ratio")
    assert utilisation["provenance"] == "stale"
    assert passing["constant channel"]["passed"]
    channel = next(c for c in joint.reader.run.instruments["cpu"].channels if c.name == "temperature_c")
    assert channel.provenance == "assumed"


def test_the_logged_index_is_recomputed_in_the_run(joint):
    """rle/v2 from the trace, largest difference over seven columns."""
    results = [json.loads(line) for line in (joint.reader.path / "results.jsonl").read_text().splitlines()]
    differences = [r["estimate"]["value"] for r in results if r["quantity"].startswith("largest difference")]
    assert len(differences) == 2
    assert max(differences) <= 1e-12


def test_replay_opens_every_device_of_the_run(joint):
    """``replay:RUN`` is both devices, the CPU last and under its own name; each shows its rows and stays stale."""
    choice = choose_devices(f"replay:{joint.reader.path}")
    assert [spec.parameters["instrument"] for spec in choice.specs] == ["gpu", "cpu"]
    assert list(Plan.of(Settings(device=f"replay:{joint.reader.path}")).instruments) == ["gpu", "cpu"]
    device = open_device(choice.specs[0])
    values, errors = device.sample(joint.trace("gpu").t_ns)
    power = [channel.name for channel in device.channels].index("power_w")
    assert np.array_equal(values[:, power], joint.trace("gpu").values("power_w"))
    assert not errors.any()
    assert {channel.provenance.value for channel in device.channels} == {"stale"}


def test_the_gaps_and_the_stale_half_are_gates(tmp_path):
    """The live HWiNFO file: cadence, gaps and repeats, on the channel they belong to."""
    run = RecordedRun(imported(tmp_path, file("sessions/live_20251031_04_hwinfo_cpu.csv")).runs[0].path)
    estimate, found = gates(run, "power_w")
    assert {name for name, gate in found.items() if not gate["passed"]} == {"cadence", "gaps", "stale values"}
    assert estimate["quality"] == "GAPPY"
    assert "stale values" not in {name for name, gate in gates(run, "temperature_c")[1].items() if not gate["passed"]}


def test_identical_logs_are_named_as_replicates(tmp_path):
    """Also the one that is called inference."""
    files = [
        path
        for name in JOINT
        for path in (file(f"joint_sessions/{name}/rle_data_*.csv"), file(f"joint_sessions/{name}/training_log_*.json"))
    ]
    found = import_rle(files, tmp_path, settings=Settings())
    note = next(note for note in found.notes if "identical to the last bit" in note.problem)
    assert all(name in note.file + note.problem for name in JOINT)
    assert [run.log is not None for run in found.runs] == [True] * 3


def test_a_log_of_local_time_is_not_attached(tmp_path):
    """Only its naive local times, read as UTC: no overlap, five hours named; with the right offset it is attached."""
    records = json.loads(file(f"joint_sessions/{JOINT[0]}/training_log_*.json").read_text())
    naive = tmp_path / "grad_norm_log.json"
    naive.write_text(json.dumps([{key: value for key, value in r.items() if key != "timestamp_shared"} for r in records]))
    session = file(f"joint_sessions/{JOINT[0]}/rle_data_*.csv")
    copy = tmp_path / "session.csv"
    shutil.copy(session, copy)
    copy.write_text("\n".join([line.replace(",cpu,", "Z,cpu,", 1).replace(",gpu,", "Z,gpu,", 1) for line in copy.read_text().splitlines()]))
    wrong = import_rle([copy, naive], tmp_path / "a", settings=Settings(), utc_offset_h=0.0)
    assert wrong.runs[0].log is None
    assert any("0% of its steps" in note.problem and "-5 h apart" in note.problem for note in wrong.notes)
    assert import_rle([copy, naive], tmp_path / "b", settings=Settings(), utc_offset_h=-5.0).runs[0].log == naive


def test_an_offset_is_not_that_of_a_writer_of_utc(tmp_path):
    """Log A has local times and its session UTC, both without a zone: one offset attaches them, and a file can have its own."""
    records = json.loads(file(f"joint_sessions/{JOINT[0]}/training_log_*.json").read_text())
    naive = tmp_path / "grad_norm_log.json"
    naive.write_text(json.dumps([{key: value for key, value in r.items() if key != "timestamp_shared"} for r in records]))
    session = file(f"joint_sessions/{JOINT[0]}/rle_data_*.csv")
    for number, offsets in enumerate(({"": -5.0}, {naive.name: -5.0})):
        found = import_rle([session, naive], tmp_path / str(number), settings=Settings(), utc_offset_h=offsets)
        assert found.runs[0].log == naive
    shifted = import_rle([session, naive], tmp_path / "shifted", settings=Settings(), utc_offset_h={"": -5.0, session.name: -5.0})
    assert shifted.runs[0].log is None


@pytest.mark.parametrize(
    ("text", "message"), [("soon", "is neither HOURS nor FILE=HOURS"), ("log.json=", "is neither HOURS nor FILE=HOURS")]
)
def test_an_offset_that_is_none_is_refused(text, message):
    """In one sentence with both forms."""
    with pytest.raises(ConfigurationError, match=message):
        offsets_of([text])


def test_the_command_line(tmp_path):
    """Notes, runs and reports; nothing usable is exit code 2 territory: an error that names each file."""
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n")
    session = file("sessions/laptop_rle_20251030_19.csv")
    found = CliRunner().invoke(app, ["import", "rle", str(session), str(bad), "--runs", str(tmp_path / "runs")])
    assert found.exit_code == 0, found.output
    assert "note: bad.csv, line 1: this is no header of an RLE session" in found.output
    (run,) = (tmp_path / "runs").iterdir()
    assert "computed channel" in (run / "report.html").read_text()
    assert verify_run(run).passed
    with pytest.raises(RecordError, match="nothing could be imported"):
        import_rle([bad], tmp_path, settings=Settings())


def results(run, op):
    found = [json.loads(line) for line in (run.reader.path / "results.jsonl").read_text().splitlines()]
    return [result for result in found if result["recipe"]["op"] == op]


def test_every_device_has_the_events_of_every_rule(tmp_path):
    """Without a training log too. Of the gaming card: 40.6 % and 3.8 % of the time by the legacy rules, published as rows.

    A rule that cannot fire on this sensor is not tested, for the card and for the pair, and not 0 %.
    """
    run = RecordedRun(imported(tmp_path, file("sessions/rle_20251028_08.csv")).runs[0].path)
    shares = {(r["coordinates"]["instrument"], r["coordinates"]["rule"]): r["estimate"]["value"] for r in results(run, "events.flag_share")}
    assert shares["gpu", "rle/collapse-v0.2"] == pytest.approx(0.406, abs=0.005)
    unable = [r for r in results(run, "events.flag_share") if r["coordinates"]["rule"] == "rle/collapse-v0.3"]
    unable += [r for r in results(run, "differential.share") if r["coordinates"]["contrast"].endswith("rle/collapse-v0.3")]
    assert [r["estimate"]["value"] for r in unable] == [None] * 3
    said = [gate["reason"] for r in unable for gate in r["gates"]]
    assert any("with a step of 1 °C rle/collapse-v0.3 cannot fire at 1 s per row" in reason for reason in said)
    assert shares["gpu", "rle/collapse-v2"] == pytest.approx(0.038, abs=0.002)
    assert {rule for _, rule in shares} == set(RULES)
    contrasts = {r["coordinates"]["contrast"]: r for r in results(run, "differential.share")}
    share = contrasts["gpu − cpu, rle/collapse-v0.2"]["estimate"]["value"]
    assert share == pytest.approx(shares["gpu", "rle/collapse-v0.2"] - shares["cpu", "rle/collapse-v0.2"], abs=1e-3)


def test_ticks_in_gaps_are_left_out(tmp_path):
    """1,708 rows and 810 s of gaps: the share is that of the rows that were logged, 957 of 1,708."""
    run = RecordedRun(imported(tmp_path, file("sessions/live_20251031_04_hwinfo_cpu.csv")).runs[0].path)
    share = next(r for r in results(run, "events.flag_share") if r["coordinates"] == {"instrument": "cpu", "rule": "rle/collapse-v2"})
    assert share["estimate"]["value"] == pytest.approx(957 / 1708, abs=0.005)
    assert "ticks in gaps left out" in share["estimate"]["estimator"]


def test_a_contrast_with_a_constant_or_an_idle_device_has_no_value(tmp_path):
    """By no rule, and not for the first event either: GPU idle, temperature, power and clock of the CPU constants."""
    run = RecordedRun(imported(tmp_path, file("joint_sessions/reproducibility_test_1/rle_data_*.csv")).runs[0].path)
    for op in ("differential.share", "differential.onset", "differential.needed_ticks"):
        assert [r["estimate"]["value"] for r in results(run, op)] == [None] * len(RULES)
        assert all(r["estimate"]["provenance"] != "measured" for r in results(run, op))


def test_no_event_without_evidence_is_no_finding(joint):
    """The monitors recorded no reason of a driver: the rule that asks for one is refused, for a device and for two, and is not 0 %."""
    own = next(r for r in results(joint, "events.flag_share") if r["coordinates"] == {"instrument": "cpu", "rule": INSTABILITY.id})
    pairs = {r["coordinates"]["contrast"].split(", ")[1]: r for r in results(joint, "differential.share")}
    pair = pairs.pop(INSTABILITY.id)
    for result in (own, pair):
        assert result["estimate"]["value"] is None
        assert [gate["name"] for gate in result["gates"] if not gate["passed"]] == ["independent evidence"]
    idle = {gate["name"] for r in pairs.values() for gate in r["gates"] if not gate["passed"]}
    assert idle == {"device under load"}  # the legacy rules ask for none; but the GPU was never loaded


def test_the_synthetic_phone_is_named_in_the_run(tmp_path):
    """Too smooth for a thermometer: assumed, with a failed gate."""
    run = RecordedRun(imported(tmp_path, file("synthetic/phone_rle_wildlife.csv")).runs[0].path)
    mean = next(r for r in results(run, "imported.channel_mean") if r["coordinates"]["channel"] == "temperature_c")
    assert not next(gate for gate in mean["gates"] if gate["name"] == "implausible smoothness")["passed"]


def test_one_recording_given_twice_is_one_run(tmp_path):
    """The copy is named; so is the offset that no zone has, and a log without its session."""
    session = file("sessions/laptop_rle_20251030_19.csv")
    copy = tmp_path / "copy.csv"
    shutil.copy(session, copy)
    found = import_rle([session, copy], tmp_path / "runs", settings=Settings())
    assert len(found.runs) == 1
    assert str(found.notes[-1]) == f"copy.csv: has the same rows as {session.name}; one run was made of both; nothing to do."
    with pytest.raises(ConfigurationError, match=r"--utc-offset is nan h \(limit ±14 h\)"):
        import_rle([session], tmp_path, settings=Settings(), utc_offset_h=float("nan"))
    log = file(f"joint_sessions/{JOINT[0]}/training_log_*.json")
    with pytest.raises(RecordError, match="Give the session's CSV together with its training log"):
        import_rle([log], tmp_path, settings=Settings())


def test_an_unusable_file_costs_no_other(tmp_path):
    """Nothing is said of other files where there is none; where there is one, its run is made and the bad line named."""
    bad = tmp_path / "bad.csv"
    bad.write_text("")
    with pytest.raises(RecordError) as refusal:
        import_rle([bad], tmp_path / "runs", settings=Settings())
    assert "other" not in str(refusal.value)
    found = import_rle([bad, file("sessions/laptop_rle_20251030_19.csv")], tmp_path / "runs", settings=Settings())
    assert len(found.runs) == 1
    assert str(found.notes[0]).startswith("bad.csv, line 1: there is no header")


def test_a_recording_that_is_nearly_all_gap_is_not_judged_tick_by_tick(tmp_path):
    """Rows from two years in one file: the gap is a failed gate, and no reading is held over it."""
    head, *rows = file("sessions/laptop_rle_20251030_19.csv").read_text().splitlines()
    later = [row.replace("2025-", "2026-", 1) for row in rows]
    path = tmp_path / "gap.csv"
    path.write_text("\n".join([head, *rows, *later]))
    run = RecordedRun(imported(tmp_path, path).runs[0].path)
    for result in results(run, "events.flag_share"):
        assert [gate["name"] for gate in result["gates"] if not gate["passed"]] == ["samples"]


def test_experiments_that_must_run_something_are_not_tested_on_a_recording(joint, tmp_path):
    """Each says why, and none ends in an error: a recording has no power limit, runs no load, and takes no plant."""
    names = ("baseline", "training_coupling")
    command = [
        sys.executable, "-m", "pytest", *(f"bench/test_{name}.py" for name in names), "--physics", "--physics-device",
        f"replay:{joint.reader.path}", "--physics-runs", str(tmp_path / "replayed"), "-q", "-p", "no:cacheprovider",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120)
    (run,) = (tmp_path / "replayed").iterdir()
    claims = [json.loads(line) for line in (run / "claims.jsonl").read_text().splitlines()]
    verdicts = {claim["id"]: claim["verdict"] for claim in claims}
    assert "raised" not in done.stdout, done.stdout
    assert verdicts.pop("baseline.idle-is-stable") == "INVALID"  # it can be replayed, and was no idle
    assert set(verdicts.values()) == {"NOT_TESTED"}
    assert len(verdicts) == 8
    assert verify_run(run).passed


def test_an_edited_row_is_found(joint):
    """The imported trace is protected like any other."""
    path = joint.reader.path / "trace-gpu.npy"
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(bytes(data))
    assert verify_run(joint.reader.path).findings


@given(st.lists(st.integers(1, 3_000_000_000), min_size=2, max_size=60))
def test_ticks_increase_and_no_row_is_before_its_tick(intervals):
    """For any spacing of rows."""
    t_ns = np.cumsum(intervals).astype(np.int64)
    period_ns, origin_ns, ticks = grid(t_ns)
    assert np.all(np.diff(ticks) > 0)
    assert np.all(origin_ns + ticks * period_ns <= t_ns)
