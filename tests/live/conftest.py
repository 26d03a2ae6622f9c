"""The program as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from pytest_physics.cli import main

PROGRAM = Path(sys.executable).with_name("pytest-physics")


class Program:
    """``pytest-physics`` in a directory of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, **options) -> subprocess.Popen[str]:
        """Start it, with its output in pipes."""
        environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen([PROGRAM, *map(str, arguments)], text=True, env=environment, cwd=self.path, **pipes)
        self.started.append(process)
        return process

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Run it to its end: exit code, output, errors."""
        process = self.start(*arguments)
        out, error = process.communicate(timeout=60)
        assert "Traceback" not in out + error
        return process.returncode, out, error

    def inside(self, *arguments: object) -> tuple[int, str, str]:
        """The same in this process, which has loaded everything already."""
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as error:
            patch.chdir(self.path)
            patch.setenv("COLUMNS", "300")
            patch.setattr(sys, "argv", ["pytest-physics", *map(str, arguments)])
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
        return code, out.getvalue(), error.getvalue()

    @property
    def runs(self) -> list[Path]:
        """Run directories."""
        return sorted(path.parent for path in self.path.glob("runs/*/run.json"))

    def verified(self) -> Path:
        """The only run, which verifies and has its report."""
        (run,) = self.runs
        code, out, _ = self.inside("verify", run)
        assert code == 0, out
        assert (run / "report.html").stat().st_size > 10_000
        return run


@pytest.fixture
def program(tmp_path):
    """``pytest-physics``; whatever it started ends with the test."""
    program = Program(tmp_path)
    yield program
    for process in program.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
