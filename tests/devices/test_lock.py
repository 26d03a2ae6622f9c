"""One run per device, also when the other run is another process, forks, or dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.devices.lock import DeviceLock, _file_name
from pytest_physics.errors import DeviceBusyError

HOLDER = """
import sys, pathlib, time
from pytest_physics.devices.lock import DeviceLock
lock = DeviceLock("GPU-1", run_id="run-of-the-child", directory=pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of GPU-1 until it is killed."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_a_free_device_is_locked_and_released(tmp_path):
    """After release the next one may have it; releasing again does nothing."""
    lock = DeviceLock("GPU-1", directory=tmp_path)
    assert not lock.held
    assert lock.acquire() is lock
    assert lock.acquire().held
    lock.release()
    lock.release()
    assert not lock.held
    with DeviceLock("GPU-1", directory=tmp_path) as next_one:
        assert next_one.held
    assert not next_one.held


def test_a_second_holder_learns_who_has_it_since_when_and_what_to_do(tmp_path, holder):
    """The message names process, run, start time and the next action."""
    since = json.loads(DeviceLock("GPU-1", directory=tmp_path).path.read_text())["since"]
    with pytest.raises(DeviceBusyError) as raised:
        DeviceLock("GPU-1", directory=tmp_path).acquire()
    message = str(raised.value)
    assert f"process {holder.pid} (run run-of-the-child) has held it since {since}" in message
    assert "end it, or choose another device with --physics-device" in message


def test_another_device_is_free(tmp_path, holder):
    """The lock is the device's, not the machine's."""
    with DeviceLock("GPU-2", directory=tmp_path) as lock:
        assert lock.held


def test_two_locks_of_one_process_exclude_each_other(tmp_path):
    """Two runs inside one process measure each other just as well."""
    with DeviceLock("GPU-1", directory=tmp_path), pytest.raises(DeviceBusyError, match=f"process {os.getpid()}"):
        DeviceLock("GPU-1", directory=tmp_path).acquire()


def test_a_dead_holder_holds_nothing(tmp_path, holder):
    """The kernel releases the lock of a killed process."""
    holder.kill()
    holder.wait()
    with DeviceLock("GPU-1", directory=tmp_path) as lock:
        assert lock.held


FORKING_HOLDER = """
import os, sys, pathlib, time
from pytest_physics.devices.lock import DeviceLock
lock = DeviceLock("GPU-1", directory=pathlib.Path(sys.argv[1])).acquire()
ready, tell = os.pipe()
if os.fork() == 0:
    os.write(tell, b"1")  # from here on the child runs code of its own, as a worker does
    time.sleep(5)
    os._exit(0)
os.read(ready, 1)
os._exit(0)
"""


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path):
    """Data-loader workers that outlive their run must not block the device."""
    subprocess.run([sys.executable, "-c", FORKING_HOLDER, str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
    with DeviceLock("GPU-1", directory=tmp_path) as lock:
        assert lock.held


def test_a_forked_child_does_not_release_the_parents_lock(tmp_path):
    """Closing the inherited file is not unlocking."""
    with DeviceLock("GPU-1", directory=tmp_path) as lock:
        if (child := os.fork()) == 0:
            lock.release()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(DeviceBusyError):
            DeviceLock("GPU-1", directory=tmp_path).acquire()


def test_everybody_may_lock(tmp_path):
    """The file is writable by all users, whatever the umask."""
    before = os.umask(0o077)
    try:
        with DeviceLock("GPU-1", directory=tmp_path) as lock:
            assert lock.path.stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_a_shorter_note_leaves_nothing_of_a_longer_one(tmp_path):
    """The file always holds one whole note."""
    with DeviceLock("GPU-1", run_id="x" * 500, directory=tmp_path):
        pass
    with DeviceLock("GPU-1", run_id="y", directory=tmp_path) as lock:
        assert json.loads(lock.path.read_text())["run_id"] == "y"


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "directory"])
def test_what_is_not_a_lock_file_is_not_written(tmp_path, kind):
    """The directory is open to all: links and pipes are refused, their targets untouched."""
    path, victim = DeviceLock("GPU-1", directory=tmp_path).path, tmp_path / "victim"
    victim.write_text("precious")
    {
        "link": lambda: path.symlink_to(victim),
        "hard link": lambda: path.hardlink_to(victim),
        "pipe": lambda: os.mkfifo(path),
        "directory": path.mkdir,
    }[kind]()
    with pytest.raises(DeviceBusyError, match=r"[Rr]emove"):
        DeviceLock("GPU-1", directory=tmp_path).acquire()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("text", ["", "not json", "[1]", '{"pid": "\\u001b[2Jx"}', '{"other": 1}', "\xff"])
def test_a_note_of_somebody_else_is_not_trusted(tmp_path, text):
    """Anything may stand in the file; the message stays readable and free of control characters."""
    with DeviceLock("GPU-1", directory=tmp_path) as lock:
        lock.path.write_bytes(text.encode("latin-1"))
        with pytest.raises(DeviceBusyError, match="in use: another process has held it") as raised:
            DeviceLock("GPU-1", directory=tmp_path).acquire()
    assert str(raised.value).isprintable()


@given(st.text(max_size=200), st.text(max_size=200))
def test_file_names_are_plain_and_different(first, second):
    """Any identity gives a name inside the directory; two identities give two names."""
    name = _file_name(first)
    assert "/" not in name
    assert len(name) < 120
    assert (name == _file_name(second)) == (first == second)
