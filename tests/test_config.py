"""Settings: where they come from, what is refused, and that none is ignored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.config import PROFILES, Section, Settings, load_settings
from pytest_physics.errors import ConfigurationError

SOURCE = Path(__file__).parents[1] / "src" / "pytest_physics"


def toml(tmp_path, text, name="physics.toml"):
    (tmp_path / name).write_text(text)
    return tmp_path


def flat(settings, prefix=""):
    """All settings by dotted name."""
    out = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Section) else {f"{prefix}{name}": value}
    return out


# --- precedence -------------------------------------------------------------------------------------------------------


def test_without_anything_the_quick_profile_is_taken(tmp_path):
    """The defaults of the fields."""
    assert load_settings(tmp_path) == Settings()
    assert Settings().profile == "quick"


def test_later_sources_win(tmp_path):
    """Profile, then ini, then file, then option; each for its own keys only."""
    toml(tmp_path, "seed = 2\nprofile = 'standard'\n[baseline]\nduration_s = 33.0\n")
    found = load_settings(tmp_path, fallbacks={"seed": 1, "runs": "ini"}, overrides={"device": "cpu", "seed": None})
    assert (found.profile, found.seed, found.runs, found.device) == ("standard", 2, "ini", "cpu")
    assert (found.baseline.duration_s, found.baseline.settle_s) == (33.0, 10.0)
    assert load_settings(tmp_path, overrides={"seed": 3}).seed == 3
    chosen = load_settings(tmp_path, profile="publish")
    assert (chosen.profile, chosen.baseline.duration_s, chosen.baseline.settle_s) == ("publish", 33.0, 60.0)


def test_the_own_file_hides_the_table_in_pyproject(tmp_path):
    """One file at a time: two would leave open which one speaks."""
    toml(tmp_path, "[tool.physics]\nseed = 5\n", "pyproject.toml")
    assert load_settings(tmp_path).seed == 5
    toml(tmp_path, "seed = 6\n")
    assert load_settings(tmp_path).seed == 6
    toml(tmp_path, "seed = 7\n", "other.toml")
    assert load_settings(tmp_path, file=tmp_path / "other.toml").seed == 7


@pytest.mark.parametrize("profile", PROFILES)
def test_on_a_virtual_clock_nothing_is_shortened(tmp_path, profile):
    """Waiting costs nothing there: baselines and soak are those of publish; repetitions are the profile's, and the file still wins."""
    found = load_settings(tmp_path, profile=profile, virtual_time=True)
    publish = load_settings(tmp_path, profile="publish")
    assert (found.baseline, found.soak) == (publish.baseline, publish.soak)
    assert found.experiment == load_settings(tmp_path, profile=profile).experiment
    toml(tmp_path, "[soak]\nbudget_s = 9.0\n")
    assert load_settings(tmp_path, profile=profile, virtual_time=True).soak.budget_s == 9.0


def test_profiles_never_touch_a_limit(tmp_path):
    """A profile that is too short for a gate makes that gate say so; it never weakens it."""
    durations = {"settle_s", "duration_s", "budget_s", "repetitions", "window_s", "latency_s", "model", "prompt_tokens", "new_tokens"}
    durations |= {"levels_s", "rhythm_s", "counter_s", "square_s", "telegraph_s", "profile"}
    durations |= {"sustain_s", "ramp_s", "ramp_cycles", "kernel_s", "host_contexts", "host_batches", "host_repetitions", "host_sustain_s"}
    durations |= {"sequences", "features", "batches", "block", "model_steps", "model_lambdas_per_j"}
    durations |= {
        "polling_s",
        "contrast_s",
        "steps",
        "replicate_share",
        "signature_idle_s",
        "signature_load_s",
        "signature_replicates",
        "shape",
    }
    quick = flat(load_settings(tmp_path))
    for profile in PROFILES:
        changed = {name for name, value in flat(load_settings(tmp_path, profile=profile)).items() if value != quick[name]}
        assert {name.rpartition(".")[2] for name in changed} <= durations


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", r"unknown key 'sed' (did you mean 'seed'?); remove or correct it"),
        ("[baseline]\nduration = 1", r"unknown key 'baseline.duration' (did you mean 'baseline.duration_s'?); remove or correct it"),
        ("[basline]\nduration_s = 1", r"unknown key 'basline' (did you mean 'baseline'?); remove or correct it"),
        ("seed = 'x'", r"'seed': must be a whole number, without quotes or point (got 'x')"),
        ("seed = true", r"'seed': must be a whole number, without quotes or point (got True)"),
        ("device = 5", r"'device': must be a text (got 5)"),
        ("[baseline]\nduration_s = '5'", r"'baseline.duration_s': must be a number, without quotes (got '5')"),
        ("[experiment]\nbatches = 5", r"'experiment.batches': must be a list (got 5)"),
        ("[experiment]\nbatches = [1, '2']", r"'experiment.batches.1': must be a whole number, without quotes or point (got '2')"),
        ("[prices]\nelectricity = 0.3", r"'prices.electricity': must be a table (got 0.3)"),
        ("seed = -1", r"'seed': Input should be greater than or equal to 0 (got -1)"),
        ("profile = 'quik'", r"unknown profile 'quik' (did you mean 'quick'?); choose one of quick, standard, publish."),
        ("profile = 3", r"unknown profile 3; choose one of quick, standard, publish."),
        ("baseline = 3", r"'baseline': must be a table (got 3)"),
        ("[baseline]\nduration_s = inf", r"'baseline.duration_s': Input should be a finite number (got inf)"),
        ("[baseline]\nmax_drift_w = nan", r"'baseline.max_drift_w': Input should be a finite number (got nan)"),
        ("[soak]\ntrip_c = 70.0", r"'resume_c' must be below 'trip_c' (70.0)"),
        ("[experiment]\nbatches = []", r"'experiment.batches': Tuple should have at least 1 item"),
        ("[experiment]\nbatches = [1, 0]", r"'experiment.batches.1': Input should be greater than or equal to 1 (got 0)"),
        ("[sampling]\nperiod_s = 0.0001", r"'sampling.period_s': Input should be greater than or equal to 0.001"),
        ("seed =", r"is not valid TOML: Invalid value"),
    ],
)
def test_wrong_settings_are_refused_with_file_key_and_what_is_accepted(tmp_path, text, message):
    """One line: where, which key, what is wrong with it, and the nearest that would be right."""
    with pytest.raises(ConfigurationError, match=re.escape(message)) as raised:
        load_settings(toml(tmp_path, text))
    assert str(tmp_path / "physics.toml") in str(raised.value) or "profile" in str(raised.value)


def test_all_problems_are_told_at_once(tmp_path):
    """Nobody corrects a file one run at a time."""
    with pytest.raises(ConfigurationError) as raised:
        load_settings(toml(tmp_path, "sed = 1\n[soak]\nbudget_s = -1.0\n"))
    assert "'sed'" in str(raised.value)
    assert "'soak.budget_s'" in str(raised.value)


def test_a_misspelt_key_deep_down_is_named_and_not_said_to_be_missing_as_well(tmp_path):
    """The nearest key is looked for at every depth; what is really missing is still said."""
    with pytest.raises(ConfigurationError) as raised:
        load_settings(toml(tmp_path, "[prices.electricity]\nperkwh = 0.3\ncurrency = 'EUR'\nsource = 'tariff'\n"))
    first, second = str(raised.value).split("; ", 2)[0], str(raised.value)
    assert first.endswith("unknown key 'prices.electricity.perkwh' (did you mean 'prices.electricity.per_kwh'?)")
    assert "'prices.electricity.date' is missing" in second
    assert "per_kwh' is missing" not in second


def test_whole_numbers_are_numbers(tmp_path):
    """``5`` where ``5.0`` would do, lists, and dates of TOML or in quotes."""
    price = "[prices.electricity]\nper_kwh = 1\ncurrency = 'EUR'\nsource = 'tariff'\ndate = {}\n"
    for date in ("2026-01-02", "'2026-01-02'"):
        settings = load_settings(toml(tmp_path, "[baseline]\nduration_s = 5\n[experiment]\nbatches = [1, 2]\n" + price.format(date)))
        assert (settings.baseline.duration_s, settings.experiment.batches) == (5.0, (1, 2))
        assert settings.prices.electricity is not None
        assert settings.prices.electricity.date.isoformat() == "2026-01-02"
        assert Settings.model_validate(settings.model_dump(mode="json")) == settings


def test_an_option_is_blamed_on_the_options(tmp_path):
    """Without a file there is no file to correct."""
    with pytest.raises(ConfigurationError, match=r"^options: 'seed'"):
        load_settings(tmp_path, overrides={"seed": "x"})


@pytest.mark.parametrize("problem", ["absent", "directory", "not text"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, problem):
    """Path and reason."""
    path = tmp_path / "x.toml"
    if problem == "directory":
        path.mkdir()
    elif problem == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        load_settings(tmp_path, file=path)


# --- what they are ----------------------------------------------------------------------------------------------------


def test_settings_survive_their_record():
    """``run.json`` gives them back, digest and all."""
    settings = Settings.model_validate({"seed": 4, "experiment": {"batches": [1, 3]}, "sampling": {"period_s": 0.05}})
    again = Settings.model_validate(settings.model_dump(mode="json"))
    assert again == settings
    assert again.digest() == settings.digest()


OTHER_VALUES = {
    "sampling.period_s": 0.5, "profile": "standard", "experiment.batches": (2,), "claims.correction": "holm", "routing.field": "graded",
    "routing.batches": 60, "routing.block": 2, "routing.points": ("uniform@0#1",),
    "training.shape": "distilgpt2", "history.metrics": ("x",), "history.skip": ("x",),
    "history.lower_is_better": ("x",), "history.higher_is_better": ("x",),
    "prices.electricity": {"per_kwh": 0.3, "currency": "EUR", "source": "a tariff", "date": "2026-01-15"},
    "prices.carbon": {"g_per_kwh": 380.0, "source": "a grid", "date": "2025-12-31"},
}  # fmt: skip
"""Settings that do not take just any other value of their type."""


def test_the_digest_is_stable_and_sees_every_setting():
    """A known value, so that old runs still verify; and another one for each single change."""
    base = Settings()
    assert Settings.model_validate({"seed": 0}).digest() == base.digest()
    assert len(base.digest()) == 64
    seen = {base.digest()}
    for name, value in flat(base).items():
        changed = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v * 1.01 + 0.001, tuple: lambda v: (*v, 3)}.get(
            type(value), lambda v: v
        )(value)
        changed = f"{value}x" if isinstance(value, str) else changed
        changed = OTHER_VALUES.get(name, changed)
        section, _, key = name.rpartition(".")
        seen.add(Settings.model_validate({section: {key: changed}} if section else {name: changed}).digest())
    assert len(seen) == 1 + len(flat(base))


@given(st.dictionaries(st.sampled_from(["seed", "runs", "device"]), st.one_of(st.integers(0, 9), st.text(max_size=3)), max_size=3))
def test_overrides_are_either_taken_or_refused(tmp_path_factory, overrides):
    """Never ignored: what was given is in the settings, or there is an error that names it."""
    try:
        found = load_settings(tmp_path_factory.getbasetemp(), overrides=overrides)
    except ConfigurationError as error:
        assert any(f"'{name}'" in str(error) for name in overrides)  # noqa: PT017 -- either outcome is right
    else:
        assert all(str(getattr(found, name)) == str(value) for name, value in overrides.items())


def test_no_setting_is_parsed_and_ignored():
    """Each name is read somewhere outside of the module that declares it."""
    code = "\n".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name != "config.py")
    unread = [name for name in flat(Settings()) if not re.search(rf"\.{name.rpartition('.')[2]}\b", code)]
    assert unread == []
