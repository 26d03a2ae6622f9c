"""Old recordings as they are: good rows stay, every other row is named with file, line and remedy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.errors import RecordError
from pytest_physics.record.rle_files import read_session, read_training_log

V1 = (
    "timestamp,device,rle_smoothed,rle_raw,rle_norm,E_th,E_pw,temp_c,vram_temp_c,power_w,util_pct,a_load,t_sustain_s,fan_pct,"
    "rolling_peak,collapse,alerts,cpu_freq_ghz,cycles_per_joule"
)
V2 = (
    "timestamp,device,rle_smoothed,rle_raw,E_th,E_pw,temp_c,power_w,util_pct,a_load,t_sustain_s,rolling_peak,collapse,alerts,"
    "cpu_cores_active,workload_state"
)


def v1_row(second, device="cpu", *, zone="Z", temp="43.0"):
    tail = ",2.496,5e7" if device == "cpu" else ""
    return (
        f"2025-10-31T04:00:{second:09.6f}{zone},{device},0.02,0.02,0.3,0.1,0.2,{temp},,{40 + second},{5 + second},0.3,600.0,,0.07,0,{tail}"
    )


def v2_row(second, device="cpu"):
    return f"2025-10-29T00:54:{second:09.6f},{device},0.1,0.1,0.3,0.3,50.0,125.0,{10 + second},0.8,600.0,0.1,0,,6,idle"


def session(tmp_path, *rows, header=V1):
    path = tmp_path / "rle_20251031_04.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def notes(found):
    return {note.problem: note for note in found.notes}


def test_clean_rows_of_two_devices(tmp_path):
    """GPU rows of v1 are two fields short by design: no note; times are whole nanoseconds."""
    rows = [v1_row(k, device) for k in range(5) for device in ("gpu", "cpu")]
    found = read_session(session(tmp_path, *rows))
    assert found.monitor == "rle/v1"
    assert set(found.devices) == {"gpu", "cpu"}
    assert not found.notes
    assert np.diff(found.devices["gpu"].t_ns).tolist() == [1_000_000_000] * 4
    assert found.devices["cpu"].columns["power_w"].tolist() == [40.0, 41.0, 42.0, 43.0, 44.0]


def test_torn_lines_are_named_and_the_others_stay(tmp_path):
    """A row cut off in the middle, one whose number is garbled, one without a time."""
    rows = [
        v1_row(0),
        v1_row(1)[:40],
        v1_row(2),
        v1_row(3).replace("600.0", "60x.0"),
        v1_row(4).replace("2025-10-31", "2025-13-31"),
        v1_row(5),
    ]
    found = read_session(session(tmp_path, *rows))
    assert len(found.devices["cpu"].t_ns) == 3
    said = [str(note) for note in found.notes]
    assert any("rle_20251031_04.csv, line 3: is torn: fewer fields than the header's 19" in text for text in said)
    assert any("line 5: is torn: a number cannot be read" in text for text in said)
    assert any("line 6: has no readable time" in text for text in said)


def test_rows_of_another_width_are_named(tmp_path):
    """A 20-column writer in a 19-column file: its columns cannot be known."""
    found = read_session(session(tmp_path, v1_row(0), v1_row(1) + ",9", v1_row(2)))
    note = notes(found)["has more fields than the header's 19"]
    assert note.lines == (3,)
    assert "another version of the monitor" in note.remedy
    assert len(found.devices["cpu"].t_ns) == 2


def test_one_duplicate_time_costs_its_row(tmp_path):
    """The first stays."""
    rows = [v1_row(k) for k in range(40)]
    found = read_session(session(tmp_path, *rows[:20], v1_row(19, temp="99.0"), *rows[20:]))
    assert len(found.devices["cpu"].t_ns) == 40
    assert found.devices["cpu"].columns["temp_c"].max() == 43.0
    assert notes(found)["repeats a time of 'cpu'"].lines == (22,)


def test_two_writers_cost_everything_from_their_meeting_on(tmp_path):
    """Interleaved rows cannot be attributed; the stretch before is honest."""
    rows = [v1_row(k) for k in range(20)] + [v1_row(k + shift) for k in range(20, 40) for shift in (0.5, 0.0)]
    found = read_session(session(tmp_path, *rows))
    assert len(found.devices["cpu"].t_ns) == 21
    assert any("two writers" in note.problem and "separate the files" in note.remedy for note in found.notes)


def test_naive_times_of_monitor_v2_are_read_as_the_utc_they_are(tmp_path):
    """It writes UTC without saying so; the note says so."""
    found = read_session(session(tmp_path, *[v2_row(k) for k in range(3)], header=V2))
    assert found.monitor == "rle/v2"
    assert found.devices["cpu"].t_ns[0] == 1761699240_000000000
    assert "its times have no zone" in notes(found)


def test_naive_times_of_another_writer_need_their_zone(tmp_path):
    """Refused with the remedy; with an offset they are read."""
    path = session(tmp_path, *[v1_row(k, zone="") for k in range(3)])
    with pytest.raises(RecordError, match="--utc-offset HOURS"):
        read_session(path)
    with_zone = read_session(path, utc_offset_h=-5.0)
    utc = read_session(session(tmp_path, *[v1_row(k) for k in range(3)]))
    assert with_zone.devices["cpu"].t_ns[0] - utc.devices["cpu"].t_ns[0] == 5 * 3600 * 10**9


def test_an_empty_device_is_named(tmp_path):
    """A device whose readings are all empty, and one with a single row."""
    empty = "2025-10-31T04:00:{:02d}Z,gpu" + "," * 15
    rows = [v1_row(0), empty.format(0), v1_row(1), empty.format(1), v1_row(2, "mobile") + ",,"]
    found = read_session(session(tmp_path, *rows))
    assert set(found.devices) == {"cpu"}
    assert any("device 'gpu' has 2 good rows" in note.problem for note in found.notes)


def test_a_file_without_the_header_is_refused(tmp_path):
    """The message names line 1 and what is missing."""
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match=r"x.csv: line 1 is no header of an RLE session \(no column a_load"):
        read_session(path)
    with pytest.raises(RecordError, match="cannot read"):
        read_session(tmp_path / "absent.csv")


@given(st.text(alphabet='0123456789,.:-TZcpu"\n', max_size=400))
def test_no_garbage_breaks_the_reader(tmp_path_factory, text):
    """Whatever stands below a good header, the two good rows stay."""
    path = tmp_path_factory.mktemp("garbage") / "s.csv"
    path.write_text("\n".join([V1, v1_row(1), v1_row(2)]) + "\n" + text)
    assert len(read_session(path).devices["cpu"].t_ns) >= 2


# --- training logs ----------------------------------------------------------------------------------------------------


def record(step, **changed):
    return {
        "step": step,
        "timestamp_shared": 1761699262.0 + 0.4 * step,
        "loss": 6.0 - 0.1 * step,
        "grad_norm": 20.0,
        "learning_rate": 5e-5,
    } | changed


def log(tmp_path, records, name="training_log.json"):
    path = tmp_path / name
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return path


def test_a_clean_log(tmp_path):
    """Unix times to the microsecond, steps and values."""
    found = read_training_log(log(tmp_path, [record(k) for k in range(1, 6)]))
    assert found.step.tolist() == [1, 2, 3, 4, 5]
    assert np.diff(found.t_ns).tolist() == [400_000_000] * 4
    assert not found.notes


def test_records_that_are_no_steps_are_named(tmp_path):
    """The final summary, a record without step, a repeated step, a time that goes back."""
    records = [
        record(1), record(2), {k: v for k, v in record(3).items() if k != "step"}, record(2), record(4),
        record(5, timestamp_shared=1.0), record(6, loss=None, grad_norm=None),
    ]  # fmt: skip
    found = read_training_log(log(tmp_path, records))
    assert found.step.tolist() == [1, 2, 4]
    assert {note.problem: note.lines for note in found.notes} == {
        "has no step index": (3,),
        "repeats a step": (4,),
        "has a time that does not increase": (6,),
        "has neither loss nor gradient norm": (7,),
    }


def test_a_log_without_any_step_index_is_refused(tmp_path):
    """Nothing can be laid over the samples; the remedy is to log the step."""
    records = [{"loss": 1.0, "timestamp_shared": float(k)} for k in range(5)]
    with pytest.raises(RecordError, match=r"0 of 5 records are steps.*has no step index.*log 'step'"):
        read_training_log(log(tmp_path, records))


def test_a_torn_log_keeps_its_whole_records(tmp_path):
    """The JSON ends in the middle of the fourth record."""
    whole = json.dumps([record(k) for k in range(1, 6)])
    found = read_training_log(log(tmp_path, whole[: whole.index('"step": 4') + 20]))
    assert found.step.tolist() == [1, 2, 3]
    assert notes(found)["is torn: the JSON ends or breaks here"].lines == (4,)


def test_naive_local_times_need_their_zone(tmp_path):
    """The alternative log has datetime.now() alone."""
    records = [{"step": k, "loss": 1.0, "timestamp": f"2025-10-28T19:54:{k:02d}"} for k in range(1, 4)]
    with pytest.raises(RecordError, match="--utc-offset"):
        read_training_log(log(tmp_path, records))
    assert read_training_log(log(tmp_path, records), utc_offset_h=-5.0).t_ns[0] == 1761699241_000000000
