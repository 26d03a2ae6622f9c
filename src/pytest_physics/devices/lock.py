"""One run per device: an advisory lock that the kernel releases when its holder dies.

``flock`` on a file named after the device's identity, in one directory for all users and jobs of the machine. ``/tmp`` is taken
as it is, not ``tempfile.gettempdir()``: a ``TMPDIR`` of one's own would let two jobs measure the same card. The file stays
behind when the lock is released (removing it would open a race), and says who holds or last held the lock.

Limits. Containers with a ``/tmp`` of their own do not see each other's locks, nor, with process ids of their own, each other's
processes: mount one ``/tmp`` into all that share a card. The lock
stops runs of this package, nobody else. The directory is writable by everybody, so the file is opened without following links,
must be a plain file with one name, and what it says is only printed.

Reference: flock(2); proc(5), ``fs.protected_regular`` (why an existing file is opened without ``O_CREAT``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_physics.clock import utc_now
from pytest_physics.errors import DeviceBusyError

LOCK_DIRECTORY = Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())  # noqa: S108, PTH112 -- see the module's docstring
_READABLE_BYTES = 4096
_SAFE_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class DeviceLock:
    """Exclusive use of the device called ``identity``, from :meth:`acquire` to :meth:`release` or to the end of the process.

    >>> with DeviceLock("doctest-device", run_id="run-1", directory=Path(tempfile.mkdtemp())) as lock:
    ...     lock.held
    True
    >>> lock.held
    False
    """

    def __init__(self, identity: str, *, run_id: str = "", directory: Path = LOCK_DIRECTORY) -> None:
        self.identity = identity
        self.run_id = run_id
        self.path = directory / _file_name(identity)
        self._file = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file >= 0

    def acquire(self) -> Self:
        """Take the lock, or raise :class:`~pytest_physics.errors.DeviceBusyError`, at once; a lock already held here stays."""
        if self.held:
            return self
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = self._busy(_read_holder(file))
            os.close(file)
            raise DeviceBusyError(message) from error
        self._file = file
        _held_locks.add(self)
        self._sign()
        return self

    def release(self) -> None:
        """Give the lock back; doing it again does nothing."""
        if self.held:
            file, self._file = self._file, -1
            # unlocking first, because a child forked meanwhile may have inherited the open file
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.release()

    def _open(self) -> int:
        try:
            file = _open_or_create(self.path)
        except OSError as error:
            raise DeviceBusyError(
                f"The lock file {self.path} of device '{self.identity}' cannot be opened ({error.strerror}), so that another run "
                "cannot be excluded. Remove the file if no run is using the device."
            ) from error
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(file)
            raise DeviceBusyError(f"{self.path} is not a plain file, so it cannot be the lock of device '{self.identity}'. Remove it.")
        return file

    def _sign(self) -> None:
        """Say who holds the lock, for the message that the next one gets."""
        text = json.dumps({"pid": os.getpid(), "run_id": self.run_id, "since": utc_now(), "identity": self.identity})
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    def _busy(self, holder: dict[str, str]) -> str:
        who = f"process {holder['pid']}" if "pid" in holder else "another process"
        run = f" (run {holder['run_id']})" if holder.get("run_id") else ""
        since = f" since {holder['since']}" if "since" in holder else ""
        return (
            f"Device '{self.identity}' is in use: {who}{run} has held it{since}. Two runs on one device measure each other. Wait "
            f"until that run has ended, end it, or choose another device with --physics-device. (Lock: {self.path})"
        )

    def _forget(self) -> None:
        """In a forked child: the lock is the parent's; keeping the file open would keep it locked beyond the parent's death."""
        if self.held:
            os.close(self._file)
            self._file = -1


_held_locks: weakref.WeakSet[DeviceLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held_locks):
        lock._forget()  # noqa: SLF001 -- same module


os.register_at_fork(after_in_child=_forget_in_child)


def _file_name(identity: str) -> str:
    """Readable, and unambiguous through a digest of the identity."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", identity)[:60]
    return f"pytest-physics-{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.lock"


def _open_or_create(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, _SAFE_FLAGS)
    try:
        file = os.open(path, _SAFE_FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        return os.open(path, _SAFE_FLAGS)  # somebody was faster
    os.fchmod(file, 0o666)  # the next holder may be another user, whatever our umask
    return file


def _read_holder(file: int) -> dict[str, str]:
    """What the holder wrote, as printable text; empty where it is not what we write."""
    try:
        said = json.loads(os.pread(file, _READABLE_BYTES, 0))
        return {key: str(said[key])[:80] for key in ("pid", "run_id", "since") if str(said.get(key, "")).isprintable() and key in said}
    except (ValueError, AttributeError):
        return {}
