"""``.ci/run`` runs the README's commands in fresh copies and fails on what must fail.

Every program it calls in an environment is replaced by a recorder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / ".ci"

RECORDER = """#!/bin/bash
name=$(basename "$0")
call="$name $*"
echo "$(basename "$PWD"): $call" >> "$LOG"
case "$call" in
  "pytest bench/ --physics --physics-device"*) kind=twin; mkdir -p runs/2; touch runs/2/run.json ;;
  "pytest bench/"*) kind=bench; mkdir -p runs/1; touch runs/1/run.json ;;
  "pytest tests/"*) kind=test ;;
  *) kind=$name ;;
esac
[ "$kind" != "$FAIL" ] || exit "$CODE"
"""

README = """
<!-- command: test -->
```bash
test -f uncommitted && ! test -e removed && ! test -e .venv && cp -r stubs .venv && .venv/bin/pytest tests/
```
<!-- command: bench -->
```bash
cp -r stubs .venv && .venv/bin/pytest bench/ --physics
```
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A git checkout with recorders as ``stubs``, an uncommitted file, a removed one, and an ignored directory."""
    root = tmp_path / "project"
    shutil.copytree(SCRIPTS, root / ".ci")
    (root / "README.md").write_text(README)
    (root / "removed").touch()
    stubs = root / "stubs" / "bin"
    stubs.mkdir(parents=True)
    for name in ("ruff", "mypy", "python", "pytest", "pytest-physics"):
        (stubs / name).write_text(RECORDER)
        (stubs / name).chmod(0o755)
    (root / ".gitignore").write_text(".venv/\n/runs/\n")
    git = ["git", "-C", root, "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (root / "uncommitted").touch()
    (root / "removed").unlink()
    (root / ".venv").mkdir()
    return root


def _run(project: Path, tmp_path: Path, fail: str = "", code: int = 1) -> tuple[int, list[str], str]:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("chromium", "sbatch"):  # found, so that nothing is installed
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    log = tmp_path / "log"
    log.touch()
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "LOG": str(log), "FAIL": fail, "CODE": str(code), "TMPDIR": str(temporary)}
    done = subprocess.run([project / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert list(temporary.iterdir()) == [], "the copies must be removed"
    return done.returncode, log.read_text().splitlines(), done.stdout + done.stderr


EXPECTED = [
    "test: pytest tests/",
    "test: ruff check .",
    "test: ruff format --check .",
    "test: mypy ",
    "test: python -m pytest -q tests/test_layers.py",
    "bench: pytest bench/ --physics",
    "bench: pytest bench/ --physics --physics-device twin:rtx4080-laptop",
    "bench: pytest-physics verify runs/1/",
    "bench: pytest-physics audit --run runs/1/",
    "bench: pytest-physics verify runs/2/",
    "bench: pytest-physics audit --run runs/2/",
]


def test_everything_runs_in_order_and_the_checkout_stays_as_it_was(project, tmp_path):
    """The README's commands as written, in two fresh copies; every written run is verified."""
    before = sorted(project.rglob("*"))
    code, calls, output = _run(project, tmp_path)
    assert (code, calls) == (0, EXPECTED), output
    assert "! test -e .venv && cp -r stubs .venv && .venv/bin/pytest tests/" in output
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("fail", ["test", "ruff", "mypy", "python", "bench", "twin", "pytest-physics"])
def test_any_failing_step_fails_the_whole(project, tmp_path, fail):
    """Exit code 1 of any step ends the script with 1, and no later step hides it."""
    code, calls, output = _run(project, tmp_path, fail=fail)
    assert code == 1
    assert "all checks passed" not in output
    assert len(calls) < len(EXPECTED) or fail == "pytest-physics"


@pytest.mark.parametrize(("fail", "expected"), [("bench", 0), ("twin", 10), ("test", 10), ("pytest-physics", 10)])
def test_only_the_real_machine_may_be_unmeasurable(project, tmp_path, fail, expected):
    """Exit code 10 passes for the run with the real CPU and nowhere else."""
    code, _, output = _run(project, tmp_path, fail=fail, code=10)
    assert code == expected, output


def test_a_readme_without_marks_fails(project, tmp_path):
    """A README that drifted away from its marks must not pass as a README whose commands work."""
    (project / "README.md").write_text("# no commands\n")
    code, calls, output = _run(project, tmp_path)
    assert (code, calls) == (1, [])
    assert "expected one line '<!-- command: test -->', found 0" in output
