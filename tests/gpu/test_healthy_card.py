"""A whole run on a card that works: energies against the scripted truth, verdicts, and every surface that shows them."""

from __future__ import annotations

import pytest
from fakenvml import A100, H100

from pytest_physics.metrology.quality import Quality

CLAIMS = ("idle", "step[0]", "step[0]#2", "step[1]", "step[1]#2", "step[2]", "step[2]#2", "budget")


def inaccuracies(run, name, expanded):
    """Error over 95 % interval (the card's scale apart) of every recorded energy of windows called ``name``, with its label."""
    windows = {window.id: window for window in run.reader.windows}
    found = {}
    for kind in ("gross", "net"):
        for key, result in run.results(name, kind).items():
            window = windows[result.coordinates["window"]]
            idle_j = 80 * (window.t1_ns - window.t0_ns) / 1e9 if kind == "net" else 0.0
            error_j = result.estimate.value - (run.true_energy_j(window) - idle_j)
            found[f"{kind} {key}"] = abs(error_j) / expanded(result.estimate)
    return found


def test_the_run_succeeds_and_everything_is_validated(healthy_run):
    """Exit code 0: nothing failed, nothing was left unmeasured, and what this rig cannot test is skipped."""
    assert healthy_run.exit_code == 0, healthy_run.output
    assert {healthy_run.verdicts[claim] for claim in CLAIMS} == {"VALIDATED"}


def test_verify_recomputes_the_same(healthy_run):
    """Every number and verdict follows from the raw artifacts."""
    assert healthy_run.findings() == []
    assert healthy_run.reader.run.state == "completed"


def test_auto_takes_the_gpu_and_nothing_is_called_simulated(healthy_run):
    """With a card that can be measured, ``auto`` needs no twin and no banner."""
    assert "gpu = nvml" in healthy_run.output
    assert "simulated" not in healthy_run.output.lower()
    assert healthy_run.reader.run.banner == []
    assert set(healthy_run.reader.run.instruments) == {"gpu", "cpu"}


def test_the_instrument_is_the_card(healthy_run, sampler_run):
    """Fingerprints name the card that the library simulates, and its clock is the machine's."""
    for run, script in ((healthy_run, H100), (sampler_run, A100)):
        gpu = run.reader.run.instruments["gpu"]
        assert f"name {gpu.fingerprint.name}\n" in script
        assert gpu.fingerprint.kind == "nvml"
        assert gpu.fingerprint.identity in (run.directory / "card.txt").read_text()
        assert gpu.clock == "perf_counter"
        assert {channel.provenance for channel in gpu.channels} == {"measured"}


def test_every_claim_is_measured(healthy_run):
    """No input of any claim is simulated or assumed."""
    assert {healthy_run.claims[claim].estimate.provenance for claim in CLAIMS} == {"measured"}


def test_energies_agree_with_the_truth(healthy_run, sampler_run, expanded_without_scale):
    """Counter and integral, gross and net, on two families: of sixteen intervals nearly all contain the truth, and none is far off."""
    ratios = inaccuracies(healthy_run, "step", expanded_without_scale) | {
        f"A100 {key}": value for key, value in inaccuracies(sampler_run, "before", expanded_without_scale).items()
    }
    assert len(ratios) == 16
    assert max(ratios.values()) < 1.6, ratios  # 1.6 U is three standard uncertainties
    assert sum(ratio <= 1 for ratio in ratios.values()) >= 12, ratios


def test_the_counter_is_taken_and_billable(healthy_run):
    """With a sensor that looks a quarter of the time, the counter speaks; a window of 1.4 s has enough ticks for the best tier."""
    for claim in ("step[0]", "step[1]", "step[2]"):
        estimate = healthy_run.claims[claim].estimate
        assert estimate.estimator.startswith("counter")
        assert estimate.quality == Quality.BILLABLE.name


def test_the_energy_budget_is_judged_on_the_tests_own_energy(healthy_run):
    """The marker's window is the test: its energy is the truth of that second."""
    claim = healthy_run.claims["budget"]
    window = next(w for w in healthy_run.reader.windows if w.name == "test_budget")
    assert claim.limit == 600
    assert claim.estimate.value == pytest.approx(healthy_run.true_energy_j(window), abs=0.02 * claim.estimate.value)


def test_junit_carries_verdict_estimate_and_provenance(healthy_run):
    """CI sees numbers and verdicts without reading the run directory."""
    properties = [(p.attrib["name"], p.attrib["value"]) for p in healthy_run.junit["test_step[0]"].iter("property")]
    assert ("physics_verdict", "VALIDATED") in properties
    assert ("physics_provenance", "measured") in properties
    estimate = float(dict(reversed(properties))["physics_estimate"])
    assert estimate == pytest.approx(healthy_run.claims["step[0]"].estimate.value)


def test_the_report_shows_the_verdicts(healthy_run):
    """The report's machine-readable part has every claim with its verdict, and says nothing of a simulation."""
    shown = {claim["id"]: claim["verdict"] for claim in healthy_run.embedded["claims"]}
    assert shown == {claim.id: claim.verdict.value for claim in healthy_run.reader.claims}
    assert "SIMULATED" not in (healthy_run.path / "report.html").read_text()


def test_a_torch_without_cuda_is_a_reason_and_not_a_failure(healthy_run):
    """Heat soak, Joule curve and models need torch on this very card: NOT_TESTED, skipped with the reason, at once."""
    for claim in ("soak", "curve", "model"):
        assert healthy_run.verdicts[claim] == "NOT_TESTED"
        reason = healthy_run.claims[claim].reason
        assert "torch cannot use the GPU NVIDIA H100 PCIe" in reason
        assert "Install a CUDA build of torch" in reason
        case = healthy_run.junit[f"test_{claim}"]
        assert reason in case.find("skipped").attrib["message"]
        assert float(case.attrib["time"]) < 30


def test_a_sensor_that_cannot_be_identified_is_known_by_its_prior(healthy_run):
    """Nobody can drive a load through this torch: the test goes on with the prior, and the terminal says why."""
    assert "skipped" not in [child.tag for child in healthy_run.junit["test_sensor"]]
    assert "the power sensor cannot be identified, what is known of it is used: torch cannot use the GPU" in " ".join(
        healthy_run.output.split()
    )
