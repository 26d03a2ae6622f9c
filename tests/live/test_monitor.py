"""``pytest-physics monitor`` from the outside: what it prints, serves and leaves behind, however it ends."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import time
import urllib.request

import pytest

from pytest_physics.record.reader import RunReader

TWIN = ("monitor", "--devices", "twin:rtx4080-laptop")


def wait_for_line(process, start):
    """Read lines until one begins with ``start``; returns all of them."""
    lines = []
    for text in process.stdout:
        lines.append(text)
        if text.strip().startswith(start):
            return lines
    raise AssertionError(f"no line begins with {start!r}: {lines}")


def wait_for_rows(program, instrument, n):
    """Wait until the trace of the only run has ``n`` samples; returns the run directory."""
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        with contextlib.suppress(Exception):
            (run,) = program.runs
            if len(RunReader(run).trace(instrument)) >= n:
                return run
        time.sleep(0.05)
    raise AssertionError("the samples did not come")


def test_a_short_watch_of_the_processor(program):
    """Plain lines where there is no terminal: what is absent and why, the first reading, the last; a run that verifies."""
    code, out, _ = program.run("monitor", "--duration", 1.5, "--hz", 20, "--devices", "cpu")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("cpu has no ")
    readings = [line for line in lines if re.match(r" +\d+\.\d s  cpu  ", line)]
    assert len(readings) == 2
    assert "utilisation " in readings[-1]
    assert re.match(r" +1\.[5-9] s", readings[-1])
    assert "\x1b" not in out
    run = program.verified()
    assert f"run:    {run.relative_to(program.path)}" in out or f"run:    {run}" in out
    reader = RunReader(run)
    assert reader.run.command[:2] == ["pytest-physics", "monitor"]
    assert reader.run.instruments["cpu"].period_ns == 50_000_000
    assert 25 <= len(reader.trace("cpu")) <= 80
    assert [(phase.name, phase.t1_ns is not None) for phase in reader.run.phases] == [("monitor", True)]


def test_ten_simulated_minutes_take_seconds(program):
    """With --fast nothing waits; energy and mean power are results that verify, and the simulation is said."""
    code, out, _ = program.inside(*TWIN, "--duration", 600, "--fast")
    assert code == 0
    assert out.startswith("GPU numbers are SIMULATED")
    assert "time to limit" in out
    reader = RunReader(program.verified())
    assert len(reader.trace("gpu")) > 6000
    energy, power = reader.results
    assert (energy.quantity, power.quantity, power.estimate.unit) == ("energy", "mean power", "W")
    assert energy.estimate.value == pytest.approx(energy.truth, abs=energy.estimate.expanded)


def test_a_simulated_device_keeps_pace_with_real_time(program):
    """Without --fast a second is a second; two devices have a column each."""
    t0 = time.monotonic()
    code, out, _ = program.inside("monitor", "--devices", "twin:rtx4080-laptop, cpu", "--duration", 1.2)
    assert code == 0
    assert time.monotonic() - t0 >= 1.2
    assert out.startswith("GPU numbers are SIMULATED: 'twin:rtx4080-laptop' was asked for.\n")
    assert " gpu SIMULATED  temperature" in out
    assert " cpu  " in out
    assert 12 <= len(RunReader(program.verified()).trace("gpu")) <= 40


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "stopped: Ctrl-C"), (signal.SIGTERM, "stopped: SIGTERM")])
def test_a_request_to_stop_completes_the_run(program, number, reason):
    """Exit code 0, report, manifest and all."""
    process = program.start("monitor", "--devices", "cpu", "--duration", 600)
    wait_for_rows(program, "cpu", 5)
    wait_for_line(process, "0.")
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    assert "report: " in out
    assert RunReader(program.verified()).run.end_reason == reason


def test_a_killed_monitor_leaves_a_readable_run(program):
    """``run.json`` and the samples were there from the start; verify says incomplete, and the report can be built."""
    process = program.start("monitor", "--devices", "cpu", "--duration", 600, "--hz", 50)
    run = wait_for_rows(program, "cpu", 20)
    process.kill()
    process.wait()
    code, out, _ = program.inside("verify", run)
    assert code == 1
    assert "differs" not in out
    assert f"{run} is incomplete" in out
    assert program.inside("report", run)[0] == 0
    assert len(RunReader(run).trace("cpu")) >= 20


def test_an_output_that_nobody_reads_completes_the_run(program):
    """``monitor | head -1`` ends the watch as a request to stop does: complete, and it says why."""
    process = program.start("monitor", "--devices", "cpu", "--duration", 600)
    wait_for_line(process, "0.")
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=40)
    assert (process.returncode, error) == (0, "")
    assert RunReader(program.verified()).run.end_reason == "stopped: the output was closed"


def test_a_dead_sampler_ends_the_watch(program):
    """What it has sampled stays, and the error is one line."""
    import psutil

    process = program.start("monitor", "--devices", "cpu", "--duration", 600)
    wait_for_rows(program, "cpu", 5)
    wait_for_line(process, "0.")
    (sampler,) = psutil.Process(process.pid).children()
    sampler.kill()
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert re.fullmatch(r"error: 'cpu': the process ended without a word \(killed by SIGKILL\); what was sampled before is in .*\n", error)
    assert RunReader(program.runs[0]).run.state == "incomplete"


def test_a_terminal_gets_a_table(program):
    """Drawn in place, with a column for the device."""
    parent, child = pty.openpty()
    process = program.start(*TWIN, "--duration", 12, "--fast", stdout=child, stderr=child, stdin=child)
    os.close(child)
    text = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(parent, 4096):
            text += chunk
    os.close(parent)
    assert process.wait(timeout=30) == 0
    shown = text.decode()
    assert "\x1b[" in shown
    for word in (
        "SIMULATED",
        "temperature",
        "power",
        "utilisation",
        "throttle reasons",
        "slope",
        "headroom",
        "time to limit",
        "12 s of 12 s",
    ):
        assert word in shown


# --- metrics --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scrape(port):
    """Metric name and labels to value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def test_metrics_show_what_the_view_shows(program, port):
    """Base units, labels that say what is simulated, an infinite time as +Inf; nothing for what the device has not."""
    pytest.importorskip("prometheus_client")
    process = program.start(*TWIN, "--duration", 30, "--prometheus", port)
    wait_for_line(process, "0.0 s")
    labels = '{device="rtx4080-laptop",instrument="gpu",simulated="true"}'
    found = scrape(port)
    assert 20 < found[f"pytest_physics_temperature_celsius{labels}"] < 100
    assert found[f"pytest_physics_sampler_up{labels}"] == 1.0
    assert found[f"pytest_physics_utilisation_ratio{labels}"] <= 1.0
    reason = '{device="rtx4080-laptop",instrument="gpu",reason="software thermal slowdown",simulated="true"}'
    assert found[f"pytest_physics_throttle_reason{reason}"] == 0.0
    assert not any(name.startswith("pytest_physics_time_to_limit") for name in found)  # too early for a slope
    assert not any("memory_temperature" in name for name in found)
    samples = f"pytest_physics_samples{labels}"
    time.sleep(1.2)
    assert scrape(port)[samples] > found[samples]


def test_metrics_are_for_this_machine_only(program, port):
    """Bound to the loop-back address."""
    pytest.importorskip("prometheus_client")
    import psutil

    process = program.start(*TWIN, "--duration", 30, "--prometheus", port)
    wait_for_line(process, "metrics: ")
    listening = [c.laddr for c in psutil.Process(process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", port)]


def test_the_limit_says_where_it_comes_from(program, port):
    """A label names the source: a setting may not look like the device's own limit."""
    pytest.importorskip("prometheus_client")
    process = program.start("monitor", "--devices", "twin:rtx4080-laptop,cpu", "--duration", 30, "--prometheus", port)
    wait_for_line(process, "0.0 s  cpu")
    found = scrape(port)
    gpu = 'device="rtx4080-laptop",instrument="gpu",simulated="true",source="the preset\'s slowdown temperature"'
    assert found[f"pytest_physics_temperature_limit_celsius{{{gpu}}}"] == 87.0
    cpu = [name for name in found if name.startswith("pytest_physics_temperature_limit_celsius{") and 'instrument="cpu"' in name]
    assert len(cpu) == 1
    assert "source=\"the setting 'soak.trip_c'\"" in cpu[0]


def test_a_busy_port_is_one_line(program):
    """And nothing is measured, nor created; exit code 2."""
    pytest.importorskip("prometheus_client")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, error = program.inside(*TWIN, "--duration", 1, "--prometheus", port)
    assert code == 2
    assert error == f"error: metrics cannot be served at 127.0.0.1:{port}: Address already in use; choose another port.\n"
    assert list(program.path.iterdir()) == []


def test_a_port_without_permission_is_one_line(program, monkeypatch):
    """As ports below 1024 are for most users; nothing is created."""
    prometheus_client = pytest.importorskip("prometheus_client")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prometheus_client, "start_http_server", refuse)
    code, _, error = program.inside(*TWIN, "--duration", 1, "--prometheus", 80)
    assert (code, error) == (2, "error: metrics cannot be served at 127.0.0.1:80: Permission denied; choose another port.\n")
    assert list(program.path.iterdir()) == []


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--duration", 0), "--duration must be > 0 s (got 0)."),
        (("--duration", "nan"), "--duration must be > 0 s (got nan)."),
        (("--hz", 0.09), "--hz must be between 0.1 and 1000 samples per second (got 0.09)."),
        (("--hz", 1001), "--hz must be between 0.1 and 1000 samples per second (got 1001)."),
        (("--prometheus", 0), "--prometheus must be a port from 1 to 65535 (got 0)."),
        (("--prometheus", 65536), "--prometheus must be a port from 1 to 65535 (got 65536)."),
        (("--devices", "cpu,cpu"), "'cpu' is named twice in --devices cpu,cpu; name each device once."),
        (("--devices", "cpu,gpo"), "There is no device kind 'gpo'"),
        (("--devices", "cpu,"), "There is no device kind ''"),
        (("--devices", "twin:rtx4088"), "There is no twin preset 'rtx4088'"),
        (("--devices", "twin,replay:nothing"), "there is no recording at nothing;"),
        (("--devices", "cpu", "--fast"), "--fast is for simulated devices only, such as --devices twin:PRESET: real ones need their time."),
    ],
)
def test_what_no_monitor_can_do_is_one_line(program, options, message):
    """Before a run directory is made."""
    code, _, error = program.inside("monitor", *options)
    assert code == 2
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert program.runs == []


@pytest.mark.parametrize("hz", [0.1, 1000])
def test_the_slowest_and_the_fastest_watch(program, hz):
    """The other sides of the limits."""
    code, _, error = program.inside(*TWIN, "--hz", hz, "--duration", 2, "--fast")
    assert (code, error) == (0, "")
