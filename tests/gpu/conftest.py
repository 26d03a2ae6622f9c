"""Whole runs on a simulated NVIDIA card: ``python -m pytest --physics`` in a project of its own, through the unmodified nvidia-ml-py.

The long runs start together, before the first test of this folder, and each test waits for its own. Every card has a UUID of its own,
because the lock of a card is the machine's.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fakenvml
import numpy as np
import pytest

from pytest_physics.devices.lock import LOCK_DIRECTORY
from pytest_physics.metrology.uncertainty import coverage_factor
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import ClaimRecord, EstimateRecord, ResultRecord, WindowRecord
from pytest_physics.record.verify import verify_run

PROJECTS = Path(__file__).with_name("projects")
TIMEOUT_S = 150


def made_card(text: str = fakenvml.H100, *, more: str = "") -> str:
    """An idle card with a UUID of its own: 80 W, 0.4 W of noise, and updates out of step with the polls."""
    changes = {
        r"^uuid .*$": f"uuid GPU-{uuid.uuid4()}",
        r"^at 0 power_w .*$": "at 0 power_w 80",
        r"^at 0 utilisation_percent .*$": "at 0 utilisation_percent 0",
        r"^at 0 event_reasons .*$": "at 0 event_reasons 0",
        r"^at 0 power_limit_w .*$": "at 0 power_limit_w 350",
        r"^sensor instant .*$": "sensor instant 0.1 0.025 0 0 0.013 0.4 0.001 1 0",
    }
    for pattern, line in changes.items():
        text, n = re.subn(pattern, line, text, flags=re.MULTILINE)
        assert n == 1, pattern
    return text + more


@dataclass
class Run:
    """One run of pytest in a temporary project."""

    directory: Path
    process: subprocess.Popen[bytes]
    output_path: Path

    @classmethod
    def start(
        cls,
        directory: Path,
        project: str,
        card_text: str | None,
        *,
        device: str = "nvml",
        baseline_s: float = 2.0,
        settings: str = "",
        **environment: str,
    ) -> Run:
        """Start the run; without a card there is no NVML library either."""
        directory.mkdir()
        shutil.copy(PROJECTS / "common.py", directory / "conftest.py")
        shutil.copy(PROJECTS / f"{project}.py", directory / f"test_{project}.py")
        (directory / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
        baseline = f"[baseline]\nsettle_s = 0.3\nduration_s = {baseline_s}\n"
        (directory / "physics.toml").write_text(f"{baseline}[sampling]\nmax_wait_s = 1.0\n{settings}")
        (directory / "card.txt").write_text(card_text or "")
        script = directory / "script.txt"
        around = fakenvml.environment(script) if card_text is not None else {**os.environ, fakenvml.SCRIPT_VARIABLE: str(script)}
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTEST_ADDOPTS", "CI"):
            around.pop(name, None)
        around |= {"PYTHONPATH": str(Path(fakenvml.__file__).parents[1]), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
        output = directory / "output.txt"
        options = ("--physics", "--physics-device", device, "--junit-xml", "junit.xml", "-p", "no:cacheprovider", "-rA")
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options], cwd=directory, env=around, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return cls(directory=directory, process=process, output_path=output)

    def measuring(self) -> Run:
        """The run itself, once its sampler writes."""
        deadline = time.monotonic() + 60
        while not list(self.directory.glob("runs/*/trace-gpu.npy")) and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End what is still running; the sampler follows its parent."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for identity in re.findall(r"^uuid (\S+)$", (self.directory / "card.txt").read_text(), re.MULTILINE):
            for lock in LOCK_DIRECTORY.glob(f"pytest-physics-{identity}-*.lock"):  # nobody else will ever use this card
                lock.unlink(missing_ok=True)

    # --- what it left; everything waits for its end ----------------------------------------------------------------------

    @cached_property
    def exit_code(self) -> int:
        return self.process.wait(TIMEOUT_S)

    @cached_property
    def output(self) -> str:
        assert self.exit_code is not None
        return self.output_path.read_text(errors="replace")

    @cached_property
    def path(self) -> Path:
        assert self.exit_code is not None
        found = list((self.directory / "runs").iterdir())
        assert len(found) == 1, self.output
        return found[0]

    @cached_property
    def reader(self) -> RunReader:
        return RunReader(self.path)

    @cached_property
    def claims(self) -> dict[str, ClaimRecord]:
        """By the test's name without ``test_``; further comparisons of a test with #2, #3."""
        found: dict[str, ClaimRecord] = {}
        for claim in self.reader.claims:
            name = claim.test.rpartition("::test_")[2]
            n = sum(known.partition("#")[0] == name for known in found) + 1
            found[name if n == 1 else f"{name}#{n}"] = claim
        return found

    @cached_property
    def windows(self) -> dict[str, WindowRecord]:
        return {window.name: window for window in self.reader.windows}

    @cached_property
    def verdicts(self) -> dict[str, str]:
        return {name: claim.verdict.value for name, claim in self.claims.items()}

    @cached_property
    def junit(self) -> dict[str, ET.Element]:
        assert self.exit_code is not None
        root = ET.parse(self.directory / "junit.xml").getroot()
        return {case.attrib["name"]: case for case in root.iter("testcase")}

    @cached_property
    def embedded(self) -> dict[str, Any]:
        """What the report says, for machines."""
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', (self.path / "report.html").read_text(), re.DOTALL)
        assert found
        data: dict[str, Any] = json.loads(found.group(1))
        return data

    def findings(self) -> list[str]:
        """What ``verify`` has to say against the run."""
        return [f"{finding.where}: {finding.problem}" for finding in verify_run(self.path).findings]

    def failed_gates(self, claim: str, *, warnings: bool = False) -> dict[str, str]:
        """Name to reason of the gates that refuse a claim, or that warn."""
        return {gate.name: gate.reason for gate in self.claims[claim].gates if not gate.passed and gate.warning is warnings}

    def results(self, name: str, kind: str = "gross") -> dict[str, ResultRecord]:
        """Recorded energies of the windows called ``name``, by estimator (and window, where there are several)."""
        found = [r for r in self.reader.results if r.quantity == kind and r.coordinates.get("name") == name]
        return {f"{r.coordinates['estimator']} {r.coordinates['window']}": r for r in found}

    def energy(self, name: str, estimator: str) -> EstimateRecord:
        """Gross energy of the one window called ``name``."""
        (found,) = (r.estimate for key, r in self.results(name).items() if key.startswith(estimator))
        return found

    # --- truth -----------------------------------------------------------------------------------------------------------

    @cached_property
    def power_points(self) -> tuple[np.ndarray, np.ndarray]:
        """The card's true power: instants in ns, and watts from there on."""
        assert self.exit_code is not None
        script = (self.directory / "script.txt").read_text()
        epoch_ns = int(re.search(r"^epoch_ns (\d+)$", script, re.MULTILINE).group(1))  # type: ignore[union-attr]
        scripted = [(epoch_ns + round(float(t) * 1e9), float(w)) for t, w in re.findall(r"^at (\S+) power_w (\S+)$", script, re.MULTILINE)]
        live = (self.directory / "live.bin").read_bytes()
        count = int.from_bytes(live[:8], "little")
        points = np.frombuffer(live, dtype=[("t_ns", "<i8"), ("w", "<f8")], count=count, offset=8)
        moved = [(int(p["t_ns"]), float(p["w"])) for p in points] if re.search("^live ", script, re.MULTILINE) else []
        t_ns, watt = zip(*sorted(scripted + moved), strict=True)
        return np.array(t_ns), np.array(watt)

    def true_energy_j(self, window: WindowRecord) -> float:
        """Exact energy between the two ends of a window."""
        t_ns, watt = self.power_points
        edges = np.clip(np.append(t_ns, max(t_ns[-1], window.t1_ns)), window.t0_ns, window.t1_ns)
        return float(np.sum(watt * np.diff(edges))) / 1e9 + float(watt[0]) * max(0, t_ns[0] - window.t0_ns) / 1e9


@pytest.fixture(scope="session")
def expanded_without_scale():
    """95 % interval of an energy without the card's common scale: the simulated card's is exact."""

    def expanded(estimate: EstimateRecord) -> float:
        u = math.sqrt(sum((line.contribution or 0.0) ** 2 for line in estimate.budget if not line.common_scale))
        return coverage_factor(estimate.dof if estimate.dof is not None else math.inf) * u

    return expanded


@pytest.fixture(scope="session")
def card():
    """Makes cards."""
    return made_card


@dataclass
class Runs:
    """Starts runs, and ends them with the session."""

    directory: Path
    started: dict[str, Run] = field(default_factory=dict)

    def start(self, name: str, project: str, card_text: str | None, **options: Any) -> Run:
        self.started[name] = Run.start(self.directory / name, project, card_text, **options)
        return self.started[name]

    def quick(self, name: str, project: str, card_text: str | None, **options: Any) -> Run:
        """A run that is over at once."""
        run = self.start(name, project, card_text, **options)
        assert run.exit_code is not None
        return run


@pytest.fixture(scope="session")
def runs(request, tmp_path_factory) -> Iterator[Runs]:
    """All runs; the long ones start here, each if some test wants it."""
    try:
        fakenvml.build()
    except fakenvml.NoCompilerError as error:
        pytest.skip(str(error))
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with ExitStack() as stack:
        made = Runs(tmp_path_factory.mktemp("gpu"))
        stack.callback(lambda: [run.stop() for run in made.started.values()])
        if "faults_run" in wanted:
            foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
            stack.callback(foreign.wait)
            stack.callback(foreign.kill)
            text = made_card()
            made.start("faults_run", "faults", text, FOREIGN_PID=str(foreign.pid)).measuring()
            made.start("second_run", "smoke", text)
        if "healthy_run" in wanted:
            made.start("healthy_run", "healthy", made_card(), device="auto", baseline_s=10.4)
        if "sampler_run" in wanted:
            made.start("sampler_run", "sampler", made_card(fakenvml.A100), baseline_s=10.4)
        yield made


@pytest.fixture(scope="session")
def healthy_run(runs) -> Run:
    """An H100 chosen by ``auto``, whose tests move its power themselves."""
    return runs.started["healthy_run"]


@pytest.fixture(scope="session")
def sampler_run(runs) -> Run:
    """An A100 whose sampler is suspended and killed."""
    return runs.started["sampler_run"]


@pytest.fixture(scope="session")
def faults_run(runs) -> Run:
    """An H100 with a fault in almost every window."""
    return runs.started["faults_run"]


@pytest.fixture(scope="session")
def second_run(faults_run, runs) -> Run:
    """A second run on the card of ``faults_run``, while that measures."""
    return runs.started["second_run"]
