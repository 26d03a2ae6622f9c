"""Options, ini keys and the configuration file: wrong ones are usage errors with the next action, and leave no run behind."""

from __future__ import annotations

import json

import pytest

OK = "def test_x(judge):\n    judge(joules(1.0) <= HIGH)\n"


def _refused(result: pytest.RunResult, message: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str(), result.stderr.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--physics-device", "nvlm"], "There is no device kind 'nvlm' (did you mean 'nvml'?)"),
        (["--physics-device", "twin:rtx4080-lapto"], "There is no twin preset 'rtx4080-lapto' (did you mean 'rtx4080-laptop'?)"),
        (["--physics-device", "twin:"], "'twin:' names no device after the colon"),
        (["--physics-device", "replay"], "'replay' needs the run directory or trace"),
        (["--physics-profile", "quik"], "unknown profile 'quik' (did you mean 'quick'?); choose one of quick, standard, publish."),
        (["--physics-config", "missing.toml"], "cannot read missing.toml: No such file or directory"),
        (["--physics-config", "."], "cannot read .: Is a directory"),
    ],
)
def test_unknown_values_are_refused_with_the_nearest(project, options, message):
    """Before collection; exit code 4."""
    project.write(test_it=OK)
    _refused(project.run(*options), message)
    assert project.runs == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile = [", "physics.toml is not valid TOML"),
        ("devise = 'cpu'", "unknown key 'devise' (did you mean 'device'?); remove or correct it"),
        ("[baseline]\nduration = 3", "unknown key 'baseline.duration' (did you mean 'baseline.duration_s'?)"),
        ("[baseline]\nduration_s = -3", "'baseline.duration_s': Input should be greater than 0 (got -3)"),
        ("baseline = 3", "'baseline': "),
        ("profile = 3", "unknown profile 3"),
        ("profile = []", "unknown profile []"),
        ("[profile]\na = 1", "unknown profile {'a': 1}"),
        ("device = 3", "'device': must be a text (got 3)"),
        ("device = 'twin:k41'", "There is no twin preset 'k41' (did you mean 'k40'?)"),
        ("seed = -1", "'seed': Input should be greater than or equal to 0 (got -1)"),
    ],
)
def test_wrong_configuration_files_are_refused(project, text, message):
    """Each names the file or the key, and what would be right."""
    (project.path / "physics.toml").write_text(text, encoding="utf-8")
    project.write(test_it=OK)
    _refused(project.run(), message)
    assert project.runs == []


def test_a_configuration_file_that_is_not_text_is_refused(project):
    """Bytes that are no UTF-8."""
    (project.path / "physics.toml").write_bytes(b"\xff\xfe\x00")
    project.write(test_it=OK)
    _refused(project.run(), "physics.toml is not valid TOML")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.physics]\ndevise = 'cpu'", "[tool.physics]: unknown key 'devise' (did you mean 'device'?)"),
        ("[tool]\nphysics = 3", "'tool.physics' must be a table (got 3); write [tool.physics]."),
    ],
)
def test_the_table_in_pyproject_is_checked_alike(project, text, message):
    """``[tool.physics]`` is read where there is no ``physics.toml``."""
    (project.path / "physics.toml").unlink()
    (project.path / "pyproject.toml").write_text(text, encoding="utf-8")
    project.write(test_it=OK)
    _refused(project.run(), message)


def _device_of(project, *, options: list[str], file: str, ini: str) -> str:
    (project.path / "physics.toml").write_text(file, encoding="utf-8")
    (project.path / "pytest.ini").write_text(f"[pytest]\n{ini}\n", encoding="utf-8")
    assert project.run_test(OK, *options).ret == 0
    return project.run_record["config"]["device"]


@pytest.mark.parametrize(
    ("options", "file", "ini", "expected"),
    [
        (["--physics-device", "twin:k40"], "device = 'twin:v100'", "physics_device = twin:h100", "twin:k40"),
        ([], "device = 'twin:v100'", "physics_device = twin:h100", "twin:v100"),
        ([], "", "physics_device = twin:h100", "twin:h100"),
    ],
)
def test_the_command_line_beats_the_file_and_the_file_beats_the_ini(project, options, file, ini, expected):
    """One order of precedence for all; what was chosen stands in ``run.json``."""
    assert _device_of(project, options=options, file=file, ini=ini) == expected


@pytest.mark.parametrize(
    ("options", "file", "ini", "expected"),
    [
        (["--physics-profile=publish"], "profile = 'standard'", "physics_profile = quick", ("publish", 26)),
        ([], "profile = 'standard'", "physics_profile = quick", ("standard", 16)),
        ([], "", "physics_profile = publish", ("publish", 26)),
        ([], "", "", ("quick", 12)),
        ([], "[experiment]\nrepetitions = 7", "physics_profile = publish", ("publish", 7)),
    ],
)
def test_the_profile_has_the_same_precedence_and_yields_to_single_keys(project, options, file, ini, expected):
    """A profile sets defaults; a key in the file wins over what any profile says."""
    _device_of(project, options=[*options, "--physics-device=twin:k40"], file=file, ini=ini)
    config = project.run_record["config"]
    assert (config["profile"], config["experiment"]["repetitions"]) == expected


def test_runs_go_where_they_are_told(project):
    """``--physics-runs`` beats the ini key; relative to where pytest was started."""
    (project.path / "pytest.ini").write_text("[pytest]\nphysics_runs = from_ini\n", encoding="utf-8")
    project.run_test(OK)
    project.run("--physics-runs", "from/option")
    assert len(list(project.path.glob("from_ini/*/run.json"))) == 1
    assert len(list(project.path.glob("from/option/*/run.json"))) == 1


def test_a_run_directory_that_cannot_be_made_is_a_usage_error(project):
    """Nothing is measured that could not be recorded."""
    (project.path / "file").write_text("", encoding="utf-8")
    project.write(test_it=OK)
    _refused(project.run("--physics-runs", "file/runs"), "in pytest with --physics-runs DIR.")


def test_an_explicit_file_replaces_the_default_one(project):
    """``--physics-config FILE`` is read instead of ``physics.toml``."""
    (project.path / "other.toml").write_text("device = 'twin:v100'", encoding="utf-8")
    assert project.run_test(OK, "--physics-config", "other.toml").ret == 0
    assert project.run_record["config"]["device"] == "twin:v100"


def test_collecting_starts_no_run(project):
    """``--collect-only`` lists, and leaves no directory."""
    project.write(test_it=OK)
    result = project.run("--collect-only")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*<Function test_x>"])
    assert not (project.path / "runs").exists()


def test_a_collection_error_starts_no_run(project):
    """A file that cannot be imported stops everything before the devices are opened."""
    project.write(test_it=OK, test_broken="import nowhere\n")
    assert project.run().ret == pytest.ExitCode.INTERRUPTED
    assert not (project.path / "runs").exists()


def test_a_collection_error_that_may_be_passed_over_counts_as_a_failure(project):
    """With ``--continue-on-collection-errors`` the rest is measured; an invalid claim beside it is not "only invalid"."""
    project.write(test_it="def test_x(judge):\n    judge(joules(1.0) <= HIGH, needs=[BROKEN])\n", test_broken="import nowhere\n")
    result = project.run("--continue-on-collection-errors")
    assert result.ret == 1
    assert project.verdicts == {"it.x": "INVALID"}


def test_no_tests_is_exit_code_5_and_no_run(project):
    """As in plain pytest; also where ``-k`` deselects everything."""
    assert project.run().ret == pytest.ExitCode.NO_TESTS_COLLECTED
    project.write(test_it=OK)
    assert project.run("-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not (project.path / "runs").exists()


def test_the_command_stands_in_the_record(project):
    """With its options, as it was typed."""
    project.run_test(OK, "-q")
    assert project.run_record["command"][-2:] == ["--physics", "-q"]
    assert json.dumps(project.run_record)


@pytest.mark.parametrize("ini", ["addopts = --strict-markers --strict-config", "strict = true"])
def test_strict_settings_know_our_markers_and_keys(project, ini):
    """Markers and ini keys are registered, with and without ``--physics``."""
    (project.path / "pytest.ini").write_text(f"[pytest]\n{ini}\nphysics_device = twin:k40\n", encoding="utf-8")
    text = "@pytest.mark.claim('x')\n@pytest.mark.needs('gpu')\n@pytest.mark.energy_budget(100)\ndef test_x(rig):\n    rig.gpu.sleep(1)\n"
    assert project.run_test(text).ret == 0
    assert project.run(physics=False).parseoutcomes() == {"skipped": 1}


def test_markers_are_listed_with_their_signatures(project):
    """``pytest --markers`` is their documentation."""
    result = project.run("--markers", physics=False)
    result.stdout.fnmatch_lines(["@pytest.mark.claim(statement=None, *, id=None, requires=()): *"])
    result.stdout.fnmatch_lines(["@pytest.mark.needs([*]channels): *"])
    result.stdout.fnmatch_lines(["@pytest.mark.energy_budget(joules, *, instrument='gpu', net=False, per=None): *"])


def test_the_plugin_can_be_switched_off(project):
    """``-p no:physics`` leaves no option, no fixture and no marker."""
    project.write(test_it="def test_x(rig):\n    pass\n")
    result = project.run("-p", "no:physics", physics=False)
    result.stdout.fnmatch_lines(["*fixture 'rig' not found*"])
    assert project.run("-p", "no:physics").ret == pytest.ExitCode.USAGE_ERROR
