"""Settings of a run: profiles, pytest's ini keys, a configuration file, and options, in this order of precedence (last wins).

The ini keys (``physics_device``, ``physics_profile``, ``physics_runs``) are a project's defaults; a configuration file may be named on the
command line, so it wins over them.
``physics.toml`` (top level) or ``[tool.physics]`` in ``pyproject.toml`` may set any field below; an unknown key is an error that
names the nearest one. The resolved settings and their hash stand in ``run.json``, and ``verify`` judges with them.

A profile sets durations and repetitions, never the limits of gates: where a profile is too short for a gate, the gate says so.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pytest_physics.errors import ConfigurationError, excerpt, nearest, nearest_name

Profile = Literal["quick", "standard", "publish"]
PROFILES: tuple[str, ...] = get_args(Profile)


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys are errors, and a text is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        """TOML and JSON have lists where the settings have tuples."""
        return tuple(value) if isinstance(value, list) else value


class SamplingSettings(Section):
    """How instruments are sampled."""

    period_s: float | None = Field(default=None, ge=0.001, le=10)
    """Grid period in seconds; None takes what the device's sensor needs."""
    gap_threshold_s: float = Field(default=0.25, gt=0)
    """An interval between valid samples longer than this is a gap (TR122: 0.25 s)."""
    max_gap_s: float = Field(default=0.5, gt=0)
    """A longer gap makes a window GAPPY, whatever its share."""
    max_wait_s: float = Field(default=5.0, gt=0)
    """How long to wait for the sampler beyond the time it needs."""


class BaselineSettings(Section):
    """Idle baselines."""

    settle_s: float = Field(default=2.0, ge=0)
    """Idle time before the measurement starts."""
    duration_s: float = Field(default=12.0, gt=0)
    """Length of one baseline."""
    max_drift_w: float = Field(default=1.0, gt=0)
    """Largest change of idle power between the baselines that bracket a window."""
    max_utilisation_ratio: float = Field(default=0.05, gt=0, le=1)
    """Largest 95th percentile of utilisation while idle."""


class SensorSettings(Section):
    """Identification of the power sensor."""

    telegraph_s: float = Field(default=30.0, gt=0)
    """Length of the random load that identifies it."""
    square_s: float = Field(default=3.0, gt=0)
    """Length of each phase of the square wave, idle, load, idle (TR122: 3 s); longer where the sensor needs it."""
    levels_s: float = Field(default=1.5, gt=0)
    """Length of each steady level, beyond the sensor's tail."""
    counter_s: float = Field(default=0.0, ge=0)
    """Length of a random load for comparing the energy counter with the readings; 0 compares them under the identifying load alone."""
    polling_s: float = Field(default=0.0, ge=0)
    """Length of each idle stretch, with and without polling, for seeing what polling does to idle power (20 s or more); 0 leaves it out."""
    max_age_days: float = Field(default=90.0, ge=0)
    """An identification from an earlier run is used up to this age; 0 always identifies anew."""
    max_calibration_age_days: float = Field(default=365.0, ge=0)
    """A scale from a reference meter is used up to this age; 0 leaves readings as they are."""


class SoakSettings(Section):
    """Heat soak."""

    budget_s: float = Field(default=25.0, gt=0)
    """Longest soak."""
    max_slope_c_per_min: float = Field(default=0.5, gt=0)
    """Largest temperature slope that counts as equilibrium."""
    window_s: float = Field(default=180.0, gt=0)
    """Window over which the slope is judged; never below what the thermometer's step allows."""
    trip_c: float = Field(default=83.0, gt=0)
    """The load is stopped at this temperature …"""
    resume_c: float = Field(default=80.0, gt=0)
    """… and may go on below this one."""
    rhythm_s: float = Field(default=25.0, ge=0)
    """Longest time in which a sweep runs in its own rhythm before it is measured: a soaked card cools where its work pauses."""

    @model_validator(mode="after")
    def _resume_below_trip(self) -> Self:
        if not self.resume_c < self.trip_c:
            raise ValueError(f"'resume_c' must be below 'trip_c' ({self.trip_c})")
        return self


class HostSettings(Section):
    """Limits of the CPU-side gates, as shares of the window (``fleet`` study, §7)."""

    max_own_wait: float = Field(default=0.02, gt=0)
    max_cpu_pressure: float = Field(default=0.02, gt=0)
    max_steal: float = Field(default=0.01, gt=0)
    max_foreign_cpu: float = Field(default=0.05, gt=0)
    """Above it a warning is shown."""
    max_canary_drift: float = Field(default=0.05, gt=0)
    """Largest relative change of the canary between before and after."""


class ClaimSettings(Section):
    """How claims are judged."""

    correction: Literal["none", "holm"] = "none"
    """``none``: each claim by itself, wrong in at most 5 % of runs. ``holm``: any claim of the run wrong in at most 5 % of runs."""


class ExperimentSettings(Section):
    """Durations and repetitions of the experiments in ``bench/``."""

    repetitions: int = Field(default=12, ge=3)
    """Repetitions of each arm; an even number makes whole pairs of blocks, forwards and backwards."""
    window_s: float = Field(default=1.2, gt=0)
    """Target length of one energy window on a GPU."""
    latency_s: float = Field(default=0.02, gt=0)
    """Target length of one timed window on a CPU."""
    model: str = "small"
    """Shape of the language model: "small", "gpt2", or a local path."""
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4, 8, 16), min_length=1)
    prompt_tokens: int = Field(default=32, ge=1)
    new_tokens: int = Field(default=16, ge=1)
    max_latency_s: float = Field(default=0.05, gt=0)
    """Longest step of decoding among which the best batch is chosen: 50 ms is 20 tokens per second, faster than people read."""
    max_temperature_apart_c: float = Field(default=3.0, gt=0)
    """Largest difference of the mean temperatures at which compared arms start: at 0.3 % of the power per °C it moves energies by 0.9 %."""
    max_temperature_drift_c: float = Field(default=5.0, gt=0)
    """Largest change of that temperature over a sweep on a soaked device; blocks forwards and backwards take its linear part out."""


class ElectricityPrice(Section):
    """What a kilowatt hour costs: worth nothing without its source and date."""

    per_kwh: float = Field(gt=0)
    currency: str = Field(pattern="^[A-Z]{3}$")
    """Three letters (ISO 4217): ``EUR``."""
    source: str = Field(min_length=1)
    """Who states it: a tariff, a contract, a statistic."""
    date: dt.date = Field(strict=False)
    """When it was valid."""


class CarbonIntensity(Section):
    """What a kilowatt hour emits."""

    g_per_kwh: float = Field(ge=0)
    """Carbon dioxide equivalent in grams."""
    source: str = Field(min_length=1)
    date: dt.date = Field(strict=False)


class PriceSettings(Section):
    """Prices of a kilowatt hour, in money and in carbon; never assumed: what needs one that is not stated is NOT_TESTED."""

    electricity: ElectricityPrice | None = None
    carbon: CarbonIntensity | None = None


class StressSettings(Section):
    """Durations and sizes of the stress study: matrix, sustained load, ramps of temperature, roofs."""

    contexts: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128, 512), min_length=1)
    """Prompt lengths of the matrix on a GPU, in tokens."""
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 8, 64), min_length=1)
    """Batches of the matrix on a GPU."""
    repetitions: int = Field(default=3, ge=3)
    """Decodes of each arm of the matrix."""
    sustain_s: float = Field(default=20.0, gt=0)
    """Length of each sustained load on a GPU."""
    ramp_s: float = Field(default=30.0, gt=0)
    """Length of one ramp of the load, up and down."""
    ramp_cycles: int = Field(default=2, ge=2)
    """Ramps that are evaluated; one more comes first, because it starts cold."""
    kernel_s: float = Field(default=0.05, gt=0)
    """Target length of one window of copies or matrix products on a GPU; on a CPU it is ``experiment.latency_s``."""
    kernel_repetitions: int = Field(default=15, ge=3)
    host_contexts: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(32,), min_length=1)
    """Prompt lengths of the matrix on a CPU."""
    host_batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(2,), min_length=1)
    """Batches of the matrix on a CPU."""
    host_repetitions: int = Field(default=3, ge=3)
    """Decodes of each arm of the matrix on a CPU."""
    host_sustain_s: float = Field(default=0.6, gt=0)
    """Length of each sustained load on a CPU."""


class RoutingSettings(Section):
    """Size of the routing sweep and of its small language model."""

    field: Literal["published", "published-warming", "graded", "cooling"] = "published-warming"
    """Thermal field of the experts: a name from ``metrology.thermal_field.FIELDS``."""
    gates: int = Field(default=12, ge=2)
    """Seeded gates; fewer than 12 make every claim INVALID."""
    lambdas_per_j: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0, 0.1, 0.2, 0.5, 1.0), min_length=2)
    """λ in 1/J per slot; 0 is each router's paired control."""
    sequences: int = Field(default=4, ge=1)
    """Sequences of 64 tokens in a batch."""
    features: int = Field(default=64, ge=8)
    """Width of the gates' inputs."""
    batches: int = Field(default=48, ge=12)
    """Batches of each point; the first half is for settling."""
    block: int = Field(default=4, ge=1)
    """Batches that share a row of the record."""
    points: tuple[str, ...] = ()
    """Points to run, as ``router@λ#gate``; empty runs all. One job of an array runs some, ``pytest-physics routing merge`` joins them."""
    model_seeds: int = Field(default=12, ge=2)
    """Seeds of the small language model; fewer than 12 make its claims INVALID."""
    model_steps: int = Field(default=8, ge=1)
    """Training steps of each."""
    model_lambdas_per_j: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0, 1.0), min_length=2)
    """λ of the language model, in 1/J per slot."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        for name, lambdas in (("lambdas_per_j", self.lambdas_per_j), ("model_lambdas_per_j", self.model_lambdas_per_j)):
            if 0.0 not in lambdas or len(set(lambdas)) != len(lambdas):
                raise ValueError(f"'{name}' must hold 0, the paired control, and each λ once (got {list(lambdas)})")
        if self.batches % self.block or self.batches // self.block < 12:
            raise ValueError(f"'batches' must be a multiple of 'block', and at least 12 of them (got {self.batches} and {self.block})")
        return self


class HistorySettings(Section):
    """How a run is compared with earlier ones, by ``--physics-compare`` and ``pytest-physics history check``."""

    index: str = Field(default="runs/history.sqlite3", min_length=1)
    """The index of earlier runs, on a local disk: SQLite does not survive several writers on a network file system."""
    delta: float = Field(default=0.05, ge=0, lt=1)
    """Claimed of each metric: no worse than the earlier runs by more than this share."""
    last: int = Field(default=20, ge=3)
    """How many of the latest valid runs under equal conditions are compared with."""
    fewest: int = Field(default=5, ge=3)
    """With fewer of them the claim is INVALID."""
    metrics: tuple[str, ...] = ("*",)
    """Patterns of the metrics that are compared, as 'pytest-physics history show' names them."""
    skip: tuple[str, ...] = ("instrument response: *", "sampler under load: *", "sampling integrity: *", "*change of idle power*")
    """Patterns of metrics that are left out: what characterises the instrument, and what is near 0 by nature."""
    lower_is_better: tuple[str, ...] = ()
    """Patterns of metrics that get worse when they rise; seconds, joules and watts do so anyway."""
    higher_is_better: tuple[str, ...] = ("VRAM cliff: largest *, found*",)
    """Patterns of metrics that get worse when they fall; what is counted per second or per joule does so anyway."""


class TrainingSettings(Section):
    """Sizes of the training coupling, the component differential and the thermal signatures."""

    shape: Literal["tiny", "distilgpt2", "llama-lora"] = "tiny"
    """Model that is trained on real devices."""
    steps: int = Field(default=900, ge=30)
    """Steps of one training on a real device."""
    replicate_share: float = Field(default=0.1, gt=0, le=1)
    """Share of the steps that a repeated training takes; 1 also gives the noise floor."""
    replicates: int = Field(default=3, ge=3)
    """Trainings that are repeated from one seed, for the noise floor."""
    planted_r: float = Field(default=0.5, gt=0, lt=1)
    """Coupling that is planted in a simulated training; its steady zone is as long as the design guide says."""
    contrast_s: float = Field(default=3.0, gt=0)
    """Length of the load under which two real devices are compared."""
    twin_contrast_cycles: int = Field(default=8, ge=4)
    """Cycles of load and rest under which two simulated devices are compared."""
    signature_replicates: int = Field(default=3, ge=3)
    """Replicates of each workload's signature."""
    signature_idle_s: float = Field(default=0.2, gt=0)
    """Idle time before each load on a real device …"""
    signature_load_s: float = Field(default=0.4, gt=0)
    """… and the length of the load."""
    twin_signature_idle_s: float = Field(default=20.0, gt=0)
    """The same on a simulated device."""
    twin_signature_load_s: float = Field(default=60.0, gt=0)
    """The same on a simulated device."""


class Settings(Section):
    """Everything that may change a result."""

    profile: Profile = "quick"
    device: str = "auto"
    """``auto``, ``nvml[:index]``, ``cpu``, ``twin[:preset]`` or ``replay:PATH``."""
    runs: str = "runs"
    """Directory that receives the run directories."""
    seed: int = Field(default=0, ge=0)
    """Seed of the twin and of randomised orders."""
    sampling: SamplingSettings = SamplingSettings()
    baseline: BaselineSettings = BaselineSettings()
    sensor: SensorSettings = SensorSettings()
    soak: SoakSettings = SoakSettings()
    host: HostSettings = HostSettings()
    claims: ClaimSettings = ClaimSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    prices: PriceSettings = PriceSettings()
    stress: StressSettings = StressSettings()
    training: TrainingSettings = TrainingSettings()
    routing: RoutingSettings = RoutingSettings()
    history: HistorySettings = HistorySettings()

    def digest(self) -> str:
        """SHA-256 over all settings."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


PROFILE_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "quick": {},
    "standard": {
        "baseline": {"settle_s": 10.0, "duration_s": 30.0},
        "sensor": {"levels_s": 5.0, "counter_s": 120.0, "polling_s": 20.0},
        "soak": {"budget_s": 600.0, "rhythm_s": 300.0},
        "stress": {
            "repetitions": 5,
            "sustain_s": 180.0,
            "ramp_s": 120.0,
            "ramp_cycles": 12,
            "kernel_s": 0.2,
            "host_contexts": (64, 512),
            "host_batches": (1, 8),
            "host_repetitions": 5,
            "host_sustain_s": 60.0,
        },
        "training": {"steps": 4000, "replicate_share": 1.0, "contrast_s": 120.0, "signature_idle_s": 20.0, "signature_load_s": 120.0},
        "routing": {"sequences": 8, "features": 256, "batches": 120, "block": 5, "model_steps": 100},
        "experiment": {
            "repetitions": 16,
            "window_s": 2.0,
            "latency_s": 0.1,
            "model": "gpt2",
            "prompt_tokens": 128,
            "new_tokens": 64,
        },
    },
    "publish": {
        "baseline": {"settle_s": 60.0, "duration_s": 120.0},
        "sensor": {"levels_s": 10.0, "counter_s": 300.0, "polling_s": 30.0},
        "soak": {"budget_s": 1800.0, "rhythm_s": 600.0},
        "stress": {
            "repetitions": 5,
            "sustain_s": 600.0,
            "ramp_s": 120.0,
            "ramp_cycles": 12,
            "kernel_s": 0.5,
            "host_contexts": (64, 512),
            "host_batches": (1, 8),
            "host_repetitions": 5,
            "host_sustain_s": 300.0,
        },
        "training": {
            "shape": "distilgpt2",
            "steps": 600,
            "replicate_share": 1.0,
            "contrast_s": 600.0,
            "signature_replicates": 5,
            "signature_idle_s": 60.0,
            "signature_load_s": 300.0,
        },
        "routing": {
            "sequences": 8,
            "features": 256,
            "batches": 120,
            "block": 5,
            "model_steps": 400,
            "model_lambdas_per_j": (0.0, 0.5, 1.0),
        },
        "experiment": {
            "repetitions": 26,
            "window_s": 5.0,
            "latency_s": 0.25,
            "model": "gpt2",
            "prompt_tokens": 128,
            "new_tokens": 64,
        },
    },
}
"""What each profile changes; ``quick`` is the default of every field."""

VIRTUAL_TIME_DEFAULTS: Mapping[str, Any] = {
    **{name: PROFILE_DEFAULTS["publish"][name] for name in ("baseline", "sensor", "soak")},
    "stress": {name: value for name, value in PROFILE_DEFAULTS["publish"]["stress"].items() if not name.startswith("host_")},
}
"""On a virtual clock waiting costs nothing: whatever the profile, nothing is shortened there."""


def load_settings(
    root: Path,
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    profile: str | None = None,
    fallbacks: Mapping[str, Any] | None = None,
    virtual_time: bool = False,
) -> Settings:
    """Settings for a project at ``root``.

    Parameters
    ----------
    root
        Directory searched for ``physics.toml`` and ``pyproject.toml``.
    file
        A configuration file given explicitly; must exist.
    overrides
        Options given on the command line; None values are ignored.
    profile
        Profile given on the command line; wins over the file's.
    fallbacks
        Values of pytest's ini keys, for what neither file nor command line sets; None values are ignored.
    virtual_time
        The GPU is a twin: durations of waiting are those of ``publish``, unless the file says otherwise.

    Raises
    ------
    ConfigurationError
        With file, key, and the nearest known key or the accepted values.
    """
    data, where = _file_data(root, file)
    data = _given(fallbacks) | data
    chosen = profile or data.get("profile", "quick")
    if chosen not in PROFILES:
        raise ConfigurationError(f"unknown profile {chosen!r}{nearest(str(chosen), PROFILES)}; choose one of {', '.join(PROFILES)}.")
    given = _given(overrides)
    defaults = _merge(PROFILE_DEFAULTS[chosen], VIRTUAL_TIME_DEFAULTS) if virtual_time else PROFILE_DEFAULTS[chosen]
    merged = _merge(_merge(defaults, data), given) | {"profile": chosen}
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(problem, where) for problem in _telling(error.errors()))) from None


def _given(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (values or {}).items() if value is not None}


def _file_data(root: Path, file: Path | None) -> tuple[dict[str, Any], str]:
    if file is not None:
        return _read_toml(file), str(file)
    own = root / "physics.toml"
    if own.is_file():
        return _read_toml(own), str(own)
    project = root / "pyproject.toml"
    if project.is_file():
        table = _read_toml(project).get("tool", {}).get("physics", {})
        if not isinstance(table, dict):
            raise ConfigurationError(f"{project}: 'tool.physics' must be a table (got {table!r}); write [tool.physics].")
        return table, f"{project} [tool.physics]"
    return {}, "options"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; check the path and its permissions.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}; correct it there.") from None


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        known = out.get(key)
        out[key] = _merge(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return out


TOML_TYPES = {
    "model_type": "must be a table", "tuple_type": "must be a list", "string_type": "must be a text",
    "float_type": "must be a number, without quotes", "int_type": "must be a whole number, without quotes or point",
}  # fmt: skip
"""What pydantic says of a wrong type, in the words of a TOML file."""


def _telling(problems: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """``problems`` with unknown keys first, and without the missing keys that those were probably meant to be."""
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    meant = {nearest_name(_key(problem), _known_keys()) for problem in unknown}
    others = [problem for problem in problems if problem["type"] != "extra_forbidden"]
    return [*unknown, *(problem for problem in others if problem["type"] != "missing" or _key(problem) not in meant)]


def _explain(problem: Mapping[str, Any], where: str) -> str:
    key = _key(problem)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'{nearest(key, _known_keys())}; remove or correct it"
    if problem["type"] == "missing":
        return f"{where}: '{key}' is missing; state it"
    return f"{where}: '{key}': {TOML_TYPES.get(problem['type'], problem['msg'])} (got {excerpt(problem['input'])})"


def _key(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _known_keys(section: type[Section] | None = None, prefix: str = "") -> Iterator[str]:
    """Every key that a configuration file may hold, at any depth."""
    for name, info in (section or Settings).model_fields.items():
        yield f"{prefix}{name}"
        for inner in (info.annotation, *get_args(info.annotation)):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from _known_keys(inner, f"{prefix}{name}.")
