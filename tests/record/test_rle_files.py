"""Old recordings as they are: good rows stay, every other row is named with file, line and remedy."""

from __future__ import annotations

import gzip
import json
import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.errors import RecordError
from pytest_physics.record.rle_files import UnusableFile, read_recording, read_session, read_training_log

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
    assert any("line 5: is torn: column 't_sustain_s' holds no number (such as '60x.0'); the other rows stay" in text for text in said)
    assert any("line 6: has no readable time (such as '2025-13-31T04:00:04.000000Z')" in text for text in said)


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
    assert notes(found)["device 'gpu' has no temperature, power or utilisation in any row"].lines == (3, 5)
    assert notes(found)["device 'mobile' has 1 good rows (at least 2)"].lines == (6,)


def test_a_file_without_the_header_is_refused(tmp_path):
    """The message names line 1 and what is missing."""
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match=r"x.csv, line 1: this is no header of an RLE session \(no column a_load.*; give a session CSV"):
        read_session(path)
    with pytest.raises(RecordError, match=r"absent.csv: cannot be read \(No such file or directory\); check the path"):
        read_session(tmp_path / "absent.csv")


GOOD = [v1_row(k) for k in range(6)]
SHAPE = re.compile(r"bad\.\w+, lines? \d[^:]*: .+; .+\.", re.DOTALL)
"""File, line, what is wrong, remedy."""


def text(*rows, header=V1):
    return "\n".join([header, *rows]) + "\n"


def broken(k, old, new):
    """The good file with row ``k`` changed."""
    return text(*GOOD[:k], GOOD[k].replace(old, new), *GOOD[k + 1 :])


BROKEN_SESSIONS = {
    "NUL": (broken(2, "04:00", "04\0\0"), "has no readable time", 5),
    "a quoted line break": (broken(2, ",0,,", ',0,"a\nb",'), "a quote stays open", 5),
    "an open quote": (broken(2, ",0,,", ',0,"a,'), "a quote stays open", 5),
    "a field without end": (broken(2, ",0,,", f",0,{'x' * 200_000},"), "a field has no end", 5),
    "an infinite reading": (broken(2, "43.0", "inf"), "holds no number (such as 'inf')", 5),
    "a reading that no sensor has": (broken(2, "43.0", "1e308"), "holds no number (such as '1e308')", 5),
    "a decimal comma": (broken(2, "43.0", '"43,0"'), "holds no number (such as '43,0')", 5),
    "a digit separator": (broken(2, "43.0", "4_3"), "holds no number (such as '4_3')", 5),
    "the header again": (text(*GOOD[:3], V1, *GOOD[3:]), "the header stands here again", 6),
    "a time without a zone among others": (broken(2, "Z,", ","), "has a time without a zone", 5),
    "a time before 1970": (broken(2, "2025", "0001"), "has no readable time", 5),
    "a time beyond 64 bits": (broken(2, "2025", "9999"), "has no readable time", 5),
    "seconds since 1970": (broken(2, "2025-10-31T04:00:02.000000Z", "1761883202"), "(such as '1761883202')", 5),
    "a device without a name": (broken(2, ",cpu,", ",,"), "names no device", 5),
    "a device that is a path": (broken(2, ",cpu,", ",../../x,"), "(such as '../../x')", 5),
    "a CPU row without its last columns": (broken(2, ",2.496,5e7", ""), "fewer fields", 5),
    "a repeated row among many": (text(*[v1_row(k) for k in range(40)], v1_row(39)), "repeats a time", 40),
    "a clock that was set back": (text(*GOOD, *GOOD[2:]), "where the clock was set back", 6),
    "UTF-16 that is torn": (text(*GOOD[:3], "x").encode("utf-16"), "fewer fields", 3),
    "Latin-1 where a number should be": (broken(2, "43.0", "43\u00b0").encode("latin-1"), "holds no number", 5),
}


@pytest.mark.parametrize("kind", BROKEN_SESSIONS)
def test_a_bad_line_is_named_and_costs_itself_alone(tmp_path, kind):
    """File, line, what it is and the remedy; the good rows stay, and no other is lost."""
    content, said, good = BROKEN_SESSIONS[kind]
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_recording(path)
    assert len(found.devices["cpu"].t_ns) == good
    told = [str(note) for note in found.notes]
    assert any(said in one for one in told), told
    assert all(SHAPE.fullmatch(one) for one in told), told


UNUSABLE_SESSIONS = {
    "nothing": ("", "line 1: there is no header"),
    "blank lines": ("\n\n\n", "line 1: there is no header"),
    "the header alone": (text(), "line 1: the header is all there is; the monitor wrote no row: record again"),
    "the header of monitor v2 alone": (text(header=V2), "line 1: the header is all there is"),
    "semicolons": (text(*GOOD).replace(",", ";"), "no header of an RLE session (no column a_load"),
    "compressed": (gzip.compress(text(*GOOD).encode()), "line 1: the file is compressed; unpack it (gunzip < bad.csv"),
    "a column twice": (text(*[f"{row},50" for row in GOOD], header=f"{V1},temp_c"), "line 1: the header names temp_c twice"),
    "torn lines only": (text(*[row[:30] for row in GOOD]), "lines 2, 3, 4 and 3 more: is torn"),
    "naive times only": (text(*[row.replace("Z,", ",") for row in GOOD]), "lines 2, 3, 4 and 3 more: has a time without a zone"),
    "an empty device only": (text(*[f"2025-10-31T04:00:0{k}Z,gpu" + "," * 15 for k in range(3)]), "lines 2, 3, 4: device 'gpu' has no"),
    "devices without names only": (text(*[row.replace(",cpu,", ",,") for row in GOOD]), "lines 2, 3, 4 and 3 more: names no device"),
    "one row": (text(GOOD[0]), "line 2: device 'cpu' has 1 good rows (at least 2)"),
    "rows of another width only": (text(*[f"{row},9" for row in GOOD]), "lines 2, 3, 4 and 3 more: has more fields"),
    "time that runs back": (text(*GOOD[::-1]), "5 of 6 times of 'cpu' repeat or run backwards"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE_SESSIONS)
def test_a_file_without_a_good_row_says_where_and_what_to_do(tmp_path, kind):
    """Nothing stays of it, so nothing is said to stay; each sentence names file, line and remedy."""
    content, said = UNUSABLE_SESSIONS[kind]
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnusableFile, match=re.escape(said)) as refusal:
        read_recording(path)
    told = [str(note) for note in refusal.value.notes]
    assert all(SHAPE.fullmatch(one) for one in told), told
    assert "stay;" not in str(refusal.value)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path, make):
    """A directory, and a pipe that nobody writes to."""
    make(tmp_path / "bad.csv")
    with pytest.raises(UnusableFile, match=r"bad.csv: is a directory or no regular file; give the files in it"):
        read_recording(tmp_path / "bad.csv")


@pytest.mark.parametrize("change", [
    lambda s: "\ufeff" + s, lambda s: s.replace("\n", "\r\n"), lambda s: s.replace("\n", "\r"), lambda s: s.replace(",", ", "),
    lambda s: s.replace(",cpu,", ",CPU,"), lambda s: s.replace("Z,", "+00:00,"), lambda s: s.replace("T04", "T05").replace("Z,", "+01:00,"),
    lambda s: s.replace(",0,,", ",0,a\u2028b,"), lambda s: s.encode("utf-16"), lambda s: s.replace("\n", "\n\n"),
])  # fmt: skip
def test_other_ways_to_write_the_same_rows_are_read(tmp_path, change):
    """Byte order marks, line ends, spaces, capitals, zones, separators that are no line ends, encodings, empty lines: without a note."""
    changed = change(text(*GOOD))
    for name, content in {"a.csv": text(*GOOD), "b.csv": changed}.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    plain, other = read_recording(tmp_path / "a.csv"), read_recording(tmp_path / "b.csv")
    assert not other.notes
    assert np.array_equal(other.devices["cpu"].t_ns, plain.devices["cpu"].t_ns)
    assert np.array_equal(other.devices["cpu"].columns["power_w"], plain.devices["cpu"].columns["power_w"])


def test_columns_that_follow_the_ones_a_gpu_row_lacks_stay_in_place(tmp_path):
    """With the micro-scale option monitor v1 wrote on behind the CPU's columns: a GPU's next value is no CPU frequency."""
    rows = [f"{v1_row(k, device)},0.5" for k in range(3) for device in ("gpu", "cpu")]
    found = read_session(session(tmp_path, *rows, header=f"{V1},F_mu"))
    assert not found.notes
    assert "cpu_freq_ghz" not in found.devices["gpu"].columns
    assert found.devices["gpu"].columns["F_mu"].tolist() == found.devices["cpu"].columns["F_mu"].tolist() == [0.5] * 3


def test_what_a_file_is_shows_in_what_it_begins_with(tmp_path):
    """A log called .csv, a session called .json, and names without an end."""
    (tmp_path / "log.csv").write_text(json.dumps([record(k) for k in range(1, 4)]))
    (tmp_path / "session.json").write_text(text(*GOOD))
    (tmp_path / "session").write_text(text(*GOOD))
    assert read_recording(tmp_path / "log.csv").step.tolist() == [1, 2, 3]
    assert len(read_recording(tmp_path / "session.json").devices["cpu"].t_ns) == 6
    assert len(read_recording(tmp_path / "session").devices["cpu"].t_ns) == 6


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
    assert {note.problem: note.records for note in found.notes} == {
        "has no step index": (3,),
        "repeats a step": (4,),
        "has a time that does not increase": (6,),
        "has neither loss nor gradient norm": (7,),
    }


def test_lines_of_a_log_are_those_of_an_editor(tmp_path):
    """However the JSON is laid out: the line on which the record begins, and its number beside it."""
    records = [record(1), record(2), {"loss": 1.0}, record(4)]
    indented = read_training_log(log(tmp_path, json.dumps(records, indent=2)))
    assert str(indented.notes[0]).startswith("training_log.json, line 16 (record 3): has no step index; the other rows stay; ")
    lines = read_training_log(log(tmp_path, "\n".join(map(json.dumps, records))))
    assert (lines.notes[0].lines, lines.notes[0].records) == ((3,), (3,))
    assert lines.lines.tolist() == [1, 2, 4]


@pytest.mark.parametrize(("content", "said"), [
    ("", "bad.json, line 1: the log holds no record; give a training log"), ("[]", "the log holds no record"),
    ("42", "line 1 (record 1): is torn or no record"), ("[1, 2]", "line 1 (records 1, 2): is torn or no record"),
    ('{"log_history": []}', "has neither loss"), ("[" * 100_000, "is torn"), ("[" + "9" * 5000 + "]", "is torn"),
    ([record(k, timestamp_shared=1.7e12 + k) for k in (1, 2)], "has no readable time (such as '1700000000001.0')"),
    ([record(k, timestamp_shared=True) for k in (1, 2)], "has no readable time (such as 'True')"),
    ([record(k) | {"step": str(k)} for k in (1, 2)], "has no step index"),
    ([record(k) | {"step": 2**63} for k in (1, 2)], "has no step index"),
    ([record(k, loss=10**400, grad_norm=None) for k in (1, 2)], "has neither loss"),
    ([{"step": k, "loss": 1.0, "timestamp": f"2025-10-28T19:54:0{k}"} for k in (1, 2)], "has a time without a zone (such as '2025"),
])  # fmt: skip
def test_a_log_without_a_good_record_says_where_and_what_to_do(tmp_path, content, said):
    """Each sentence names file, line and remedy; nothing is said to stay."""
    with pytest.raises(UnusableFile, match=re.escape(said)) as refusal:
        read_recording(log(tmp_path, content, "bad.json"))
    told = [str(note) for note in refusal.value.notes]
    assert all(SHAPE.fullmatch(one) for one in told), told
    assert "stay;" not in str(refusal.value)


def test_a_second_training_behind_the_first_is_named(tmp_path):
    """A step that goes back belongs to another training, though its time goes on."""
    found = read_training_log(log(tmp_path, [record(k, timestamp_shared=1e9 + n) for n, k in enumerate((1, 5, 9, 2, 3, 10))]))
    assert found.step.tolist() == [1, 5, 9, 10]
    assert notes(found)["has a step that goes back"].records == (4, 5)


def test_steps_that_pandas_wrote_as_numbers_with_a_point_are_steps(tmp_path):
    """3.0 is the third step; 3.5 is none."""
    found = read_training_log(log(tmp_path, [record(k) | {"step": float(k)} for k in (1, 2, 3)] + [record(4) | {"step": 4.5}]))
    assert found.step.tolist() == [1, 2, 3]


def test_a_log_without_any_step_index_is_refused(tmp_path):
    """Nothing can be laid over the samples; the remedy is to log the step."""
    records = [{"loss": 1.0, "timestamp_shared": float(k)} for k in range(5)]
    with pytest.raises(RecordError, match=r"0 of 5 records are steps.*has no step index.*log 'step'"):
        read_training_log(log(tmp_path, records))


def test_a_torn_log_keeps_its_whole_records(tmp_path):
    """The JSON ends in the middle of the fourth record; or a restarted writer goes on behind the tear."""
    whole = json.dumps([record(k) for k in range(1, 6)])
    found = read_training_log(log(tmp_path, whole[: whole.index('"step": 4') + 20]))
    assert found.step.tolist() == [1, 2, 3]
    assert notes(found)["is torn or no record"].records == (4,)
    lines = [json.dumps(record(k)) for k in range(1, 6)]
    resumed = read_training_log(log(tmp_path, "\n".join([*lines[:2], lines[2][:30], *lines[3:]])))
    assert resumed.step.tolist() == [1, 2, 4, 5]
    assert notes(resumed)["is torn or no record"].lines == (3,)


def test_naive_local_times_need_their_zone(tmp_path):
    """The alternative log has datetime.now() alone."""
    records = [{"step": k, "loss": 1.0, "timestamp": f"2025-10-28T19:54:{k:02d}"} for k in range(1, 4)]
    with pytest.raises(RecordError, match="--utc-offset"):
        read_training_log(log(tmp_path, records))
    assert read_training_log(log(tmp_path, records), utc_offset_h=-5.0).t_ns[0] == 1761699241_000000000
