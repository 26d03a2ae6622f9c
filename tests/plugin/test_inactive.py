"""Without ``--physics`` the plugin costs nothing: no heavy module, no process, no per-test hook; with it, nothing stays behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "numpy", "scipy", "torch", "transformers", "jinja2", "psutil", "pynvml", "matplotlib", "pydantic", "typer", "rich",
)  # fmt: skip
"""Libraries that a run without ``--physics`` must not pay for."""

GUARD = """
import subprocess, sys, os
spawned = []
def note(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"):
        spawned.append((event, str(arguments)[:200]))
sys.addaudithook(note)
import pytest
code = pytest.main(["-q", *{plugins}, *{options}])
loaded = sorted(name for name in {heavy} if name in sys.modules)
own = sorted(name for name in sys.modules if name.startswith("pytest_physics"))
print("RESULT", int(code), loaded, spawned, own)
"""
ALONE = ["-p", "pytest_physics.plugin"]
"""Loads this plugin and no other: what others import is not ours to answer for."""

PLAIN = "def test_plain():\n    assert 1 == 1\n"
USES = "import pytest\n@pytest.mark.claim('x')\ndef test_uses(rig, idle_baseline, heat_soaked, sensor, judge):\n    assert 1 == 2\n"


def _python(project, code: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, cwd=project.path, capture_output=True, text=True, timeout=120, **options)


def _guarded(project, *options: str) -> tuple[int, str]:
    """Exit code and guard line of a pytest in a fresh interpreter."""
    code = GUARD.format(plugins=ALONE, options=list(options), heavy=HEAVY)
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "/usr/bin:/bin", "HOME": str(project.path)}
    done = _python(project, code, env=environment)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")] or [done.stdout + done.stderr]
    return done.returncode, line


def test_an_inactive_run_loads_nothing_heavy_and_starts_nothing(project):
    """Checked after ``pytest.main()`` returned, by module table and audit hook; a check inside a test would miss the session's end."""
    project.pytester.makepyfile(test_plain=PLAIN, test_uses=USES)
    code, line = _guarded(project)
    own = ["pytest_physics", "pytest_physics.plugin"]
    assert (code, line) == (0, f"RESULT 0 [] [] {own}")


def test_the_guard_sees_modules_and_processes(project):
    """A check that cannot fire would also be silent: planted imports and a planted process are found."""
    project.pytester.makepyfile(
        test_plain="import subprocess, sys, psutil\ndef test_x():\n    subprocess.run([sys.executable, '-c', ''])\n"
    )
    _, line = _guarded(project)
    assert "['psutil']" in line
    assert "subprocess.Popen" in line


def test_an_inactive_run_has_no_hook_per_test(project):
    """Neither the plugin nor its fixtures implement any hook that runs for each test."""
    project.write(
        conftest="""
        def pytest_sessionfinish(session):
            ours = [plugin for name, plugin in session.config.pluginmanager.list_name_plugin() if "physics" in name and plugin]
            hooks = {
                impl.function.__name__
                for plugin in ours
                for impl in (session.config.pluginmanager.get_hookcallers(plugin) or [])
                for impl in impl.get_hookimpls()
                if impl.plugin is plugin
            }
            print("HOOKS", sorted(hooks))
        """
    )
    project.pytester.makepyfile(test_plain=PLAIN)
    result = project.run("-s", physics=False)
    result.stdout.fnmatch_lines(["*HOOKS [[]'pytest_addhooks', 'pytest_addoption', 'pytest_configure'[]]*"])


def test_fixtures_skip_and_say_how_to_measure(project):
    """Tests that need the rig are skipped; others run as ever."""
    project.pytester.makepyfile(test_plain=PLAIN, test_uses=USES)
    result = project.run("-rs", physics=False)
    assert result.parseoutcomes() == {"passed": 1, "skipped": 1}
    result.stdout.fnmatch_lines(["SKIPPED * needs the rig: run pytest with --physics"])
    assert project.runs == []


def test_a_bare_comparison_without_a_run_says_so(project):
    """It must neither pass nor fail silently."""
    project.write(test_it="def test_x():\n    assert joules(1.0) <= HIGH\n")
    result = project.run(physics=False)
    result.stdout.fnmatch_lines(["E*TypeError: '*J <= 2 J' has no truth value here*"])


def test_no_process_remains_after_an_active_run(project):
    """The CPU's sampler is a process of its own; after ``pytest.main()`` it is gone."""
    (project.path / "physics.toml").write_text("[baseline]\nsettle_s = 0.1\nduration_s = 0.3\n", encoding="utf-8")
    project.pytester.makepyfile(
        test_it="""
        import psutil
        def test_x(rig):
            with rig.cpu.window("work"):
                sum(range(10000))
            assert len(psutil.Process().children(recursive=True)) > 0
        """
    )
    code = (
        "import psutil, pytest\n"
        "code = pytest.main(['-q', '-p', 'no:hypothesispytest', '--physics', '--physics-device', 'cpu'])\n"
        "print('RESULT', int(code), psutil.Process().children(recursive=True))\n"
    )
    done = _python(project, code)
    assert "RESULT 0 []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("options", [[], ["--collect-only"], ["--help"], ["--version"], ["--markers"], ["--fixtures"]])
def test_no_way_of_calling_pytest_makes_an_inactive_plugin_heavy(project, options):
    """Information options configure plugins too."""
    project.pytester.makepyfile(test_plain=PLAIN)
    code, line = _guarded(project, *options)
    assert code == 0
    assert line.startswith("RESULT 0 [] [] "), line
