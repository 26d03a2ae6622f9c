"""A toy Slurm cluster of this user: its own munged, its own slurmctld, several slurmd on one host, fake GPUs; its own database if asked.

Nothing is touched outside its directory. Daemons fork before they fail, so what counts is whether every node becomes
idle. The nodes share the real cores. An epilog is set, as on most clusters: without one slurmctld 22.05 looks for the next job of a node
only at its next turn, up to a second later.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr")
UP_S = 20.0
ACCOUNTING_UP_S = 20.0

CONFIGURATION = """ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={path}/munge/sock
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool-%n
SlurmctldLogFile={path}/log/slurmctld.log
SlurmdLogFile={path}/log/slurmd-%n.log
SlurmctldPidFile={path}/pid/slurmctld.pid
SlurmdPidFile={path}/pid/slurmd-%n.pid
SlurmctldPort={port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
SlurmdTimeout=8
GresTypes=gpu
{accounting}
JobCompType=jobcomp/none
ReturnToService=2
MpiDefault=none
KillWait=30
Epilog={epilog}
MinJobAge=3600
{nodes}
PartitionName=bench Nodes=n[1-{count}] Default=YES MaxTime=INFINITE State=UP OverSubscribe=EXCLUSIVE
PartitionName=shared Nodes=n[1-{count}] MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=forced Nodes=n[1-{count}] MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""
NODE = (
    "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 "
    "RealMemory=2000 Gres=gpu:toy:2 State=UNKNOWN"
)

DATABASE = """AuthType=auth/munge
AuthInfo=socket={path}/munge/sock
DbdHost=localhost
DbdPort={port}
SlurmUser={user}
PidFile={path}/pid/slurmdbd.pid
LogFile={path}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=toy_accounting
"""
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={path}/munge/sock
AccountingStorageTRES=gres/gpu"""


def missing(programs: Sequence[str] = PROGRAMS) -> list[str]:
    """Programs that are not installed; Debian keeps the daemons in ``/usr/sbin``."""
    return [name for name in programs if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class ToyCluster:
    """Three nodes with two fake GPUs each; ``settings`` replace lines of ``slurm.conf``, ``accounting`` adds slurmdbd and its MariaDB."""

    def __init__(self, count: int = 3, *, settings: Mapping[str, str] | None = None, accounting: bool = False) -> None:
        self.count, self.settings, self.accounting = count, settings or {}, accounting
        self.port = _free_ports(count + 2)
        self.server: subprocess.Popen[bytes] | None = None
        self.path = Path(tempfile.mkdtemp(prefix="toy-slurm-"))  # short: a socket's path has a limit
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.path / "slurm.conf")}

    def up(self) -> None:
        """Start everything and wait until every node is idle."""
        for part in ("state", "log", "pid", "munge"):
            (self.path / part).mkdir(mode=0o700)
        key = self.path / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        self._configure()
        munge = [f"--{name}={self.path}/{place}" for name, place in _MUNGE.items()]
        self._start("munged", *munge, "--force")
        if self.accounting:
            self._database()
        self._start("slurmctld", "-c")
        for number in range(1, self.count + 1):
            self._start("slurmd", "-c", "-N", f"n{number}")
        deadline_s = time.monotonic() + UP_S
        while self.states().count("idle") < self.count:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the toy cluster is not up after {UP_S:g} s: {self.states()}\n{self.logs()}")
            time.sleep(0.05)

    def down(self) -> None:
        """End every daemon and remove the directory. They have nothing to save, and a slurmd without its controller ignores SIGTERM."""
        for path in (self.path / "pid").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        for process in psutil.process_iter():  # a step whose slurmd is gone waits for it for ever; it is known by its directory
            with contextlib.suppress(psutil.Error, OSError):
                if process.name().startswith("slurmstepd") and process.cwd().startswith(str(self.path)):
                    for part in [*process.children(recursive=True), process]:
                        part.kill()
        shutil.rmtree(self.path, ignore_errors=True)

    def states(self) -> list[str]:
        """State of each node of the partition."""
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "bench", "-o", "%T"], env=self.environment, capture_output=True, text=True, timeout=20, check=False
        )  # fmt: skip
        return done.stdout.split()

    def lose(self, node: str, job_pid: int) -> None:
        """The node dies: its slurmd and everything that its job runs, without a word to anybody."""
        os.kill(int((self.path / "pid" / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        job = psutil.Process(job_pid)
        step = job.parent()
        for process in [*job.children(recursive=True), job, *([step] if step and "slurmstepd" in step.name() else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def hide(self, node: str, directory: Path) -> None:
        """Start the node's slurmd anew, in a mount namespace of its own where ``directory`` is another file system, an empty one."""
        os.kill(int((self.path / "pid" / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        self._start("unshare", "--mount", "sh", "-c", f"mount -t tmpfs toy {directory} && slurmd -N {node}")

    def logs(self) -> str:
        """The ends of all logs, for messages."""
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted((self.path / "log").glob("*")))

    def _configure(self) -> None:
        host, port = platform.node().partition(".")[0], self.port
        nodes = [NODE.format(number=i, host=host, port=port + i, cores=os.cpu_count() or 1) for i in range(1, self.count + 1)]
        text = CONFIGURATION.format(
            host=host, path=self.path, user=getpass.getuser(), port=port, nodes="\n".join(nodes), count=self.count,
            epilog=shutil.which("true"),
            accounting=ACCOUNTING.format(path=self.path, port=port + self.count + 1) if self.accounting else NO_ACCOUNTING,
        )  # fmt: skip
        for name, value in self.settings.items():
            text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        (self.path / "slurm.conf").write_text(text)
        # slurmd wants a device file to count; any that is there does, none is opened
        (self.path / "gres.conf").write_text(f"NodeName=n[1-{self.count}] Name=gpu Type=toy File=/dev/tty[1-2]\n")

    def _database(self) -> None:
        """MariaDB with its own directory and socket, without network and passwords, and slurmdbd before it."""
        data, sock, user = self.path / "mariadb", self.path / "mariadb.sock", getpass.getuser()
        self.environment["MYSQL_UNIX_PORT"] = str(sock)  # slurmdbd has no setting for it
        self._start("mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db")
        server = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={sock}", f"--user={user}", "--innodb-buffer-pool-size=64M"]
        server += ["--skip-networking", "--skip-grant-tables", f"--pid-file={self.path}/pid/mariadbd.pid"]
        with (self.path / "log" / "mariadbd.start").open("ab") as log:
            self.server = subprocess.Popen(server, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self._until(sock.exists, "MariaDB")
        configuration = self.path / "slurmdbd.conf"
        configuration.write_text(DATABASE.format(path=self.path, port=self.port + self.count + 1, user=user))
        configuration.chmod(0o600)
        self._start("slurmdbd")
        ask = ["sacctmgr", "-n", "show", "cluster"]
        self._until(
            lambda: subprocess.run(ask, env=self.environment, capture_output=True, timeout=20, check=False).returncode == 0, "slurmdbd"
        )

    def _until(self, up: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + ACCOUNTING_UP_S
        while not up():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the toy cluster's {what} is not up after {ACCOUNTING_UP_S:g} s\n{self.logs()}")
            time.sleep(0.05)

    def _start(self, *command: str) -> None:
        log = (self.path / "log" / f"{Path(command[0]).name}.start").open("ab")
        with log:
            subprocess.run(command, env=self.environment, stdout=log, stderr=log, timeout=20, check=True)


_MUNGE = {
    "key-file": "munge/key",
    "socket": "munge/sock",
    "pid-file": "pid/munged.pid",
    "log-file": "log/munged.log",
    "seed-file": "munge/seed",
}


def _free_ports(count: int) -> int:
    """First of ``count`` neighbouring ports that are free now."""
    for base in range(26900, 31000, count + 1):
        with contextlib.ExitStack() as held:
            try:
                for port in range(base, base + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports for a toy cluster")
