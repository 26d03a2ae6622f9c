"""The five published audits: every expected verdict, the marks that must be found, and how long it takes."""

from __future__ import annotations

import json
import time

import pytest
from sound_report import AUDITS

from pytest_physics.audit.judge import Audit, audit
from pytest_physics.audit.loader import load

TR122 = {
    "reads-add-up": "VALIDATED", "idle-power": "REFUTED", "idle-distribution": "REFUTED", "idle-uncertainty": "REFUTED",
    "not-fake-idle": "INVALID", "continuity": "REFUTED", "sensor-response": "INVALID", "event-energy": "INVALID", "joule-model": "REFUTED",
    "decode-figures": "REFUTED", "equilibrium": "REFUTED", "soak-duration": "REFUTED", "no-throttling": "INVALID", "vram-cliff": "INVALID",
    "infrastructure": "INVALID", "artifacts": "INVALID", "reproducible": "INVALID", "joule-curve-scaling": "NOT_TESTED",
    "interval-counts": "VALIDATED",
}  # fmt: skip
ROUTING = {
    "energy-total": "VALIDATED", "slot-counts": "VALIDATED", "token-counts": "REFUTED", "energy-aware": "REFUTED", "lambda": "REFUTED",
    "savings": "INVALID", "cheaper": "REFUTED", "thermal": "REFUTED", "adapts": "REFUTED", "diversity": "REFUTED",
}  # fmt: skip
SATURATION = {
    "discriminates": "INCONCLUSIVE", "personalities": "INVALID", "stress-detected": "INVALID", "steady-cadence": "REFUTED",
    "still-changing": "REFUTED", "ramp-expected": "REFUTED", "rising-rate": "INVALID",
}  # fmt: skip
GRADIENT = {
    "outcomes": "INVALID", "aligned": "INVALID", "coupling": "INCONCLUSIVE", "temperature-coupling": "INCONCLUSIVE",
    "workload-independence": "INVALID", "pipeline": "VALIDATED",
}  # fmt: skip
LUNA = {
    "five-minutes": "REFUTED", "distil-minutes": "VALIDATED", "distinguishes": "INVALID", "instability": "INVALID", "more-power": "INVALID",
    "cross-domain": "INVALID", "fingerprint": "INVALID", "luna-power-level": "INVALID",
}  # fmt: skip


def verdicts(found: Audit) -> dict[str, str]:
    return {ruling.claim.id: ruling.verdict.value for ruling in found.rulings}


def accused_labels(found: Audit) -> set[str]:
    accused = {name for name, _ in found.accusations}
    return {label for part in found.examined if part.id in accused for label in part.exhibit.labels}


def sentences(found: Audit, exhibit: str) -> str:
    (part,) = [part for part in found.examined if part.id == exhibit]
    return "; ".join(finding.sentence for finding in part.findings)


@pytest.fixture(scope="module")
def tr122() -> Audit:
    return audit(load(AUDITS / "tr122.yaml"))


def test_tr122_verdicts(tr122):
    """Nothing but its counts survives."""
    assert verdicts(tr122) == TR122


def test_tr122_marks(tr122):
    """All four proofs and at least 30 of the 38 contradictions are found from the transcription."""
    found = accused_labels(tr122)
    assert {"P1", "P2", "P3", "P4"} <= found
    assert len({f"I-{i:02}" for i in range(1, 39)} & found) >= 30


@pytest.mark.parametrize(
    ("exhibit", "words"),
    [
        ("baseline", "only N = 586 (ddof 1)"),
        ("baseline", "between 9.9% and 24.9% of the readings lie below 5"),
        ("baseline", "between 57.4% and"),
        ("baseline", "at most 12.6% of the readings lie from 19.7 to 21.7; said are at least 50%"),
        ("baseline", "no outlier is possible"),
        ("baseline-histogram", "at most 9.63, printed is 9.97"),
        ("soak-in-trace", "the counts cover 196.6 s, stated at least 300 s"),
        ("thermal", "the table rises by 1.44 C/min, stated is 0.494 C/min"),
        ("response-test", "takes 0.8 s to rise: within 0.3 s is impossible"),
    ],
)
def test_tr122_numbers(tr122, exhibit, words):
    """The known answers stand in the findings."""
    assert words in sentences(tr122, exhibit)


def test_an_audit_of_tr122_is_quick():
    """Reading, examining and judging take at most 5 s of this process."""
    start = time.process_time()
    audit(load(AUDITS / "tr122.yaml"))
    assert time.process_time() - start <= 5


def test_routing_verdicts():
    """All refutations of the routing study, and its arithmetic that closes."""
    found = audit(load(AUDITS / "routing.yaml"))
    assert verdicts(found) == ROUTING
    assert "costs 12.7% more than uniform, and the cheapest get 67.6% instead of 75.0%" in sentences(found, "seed-run")
    assert "scores -16.7%" in sentences(found, "seed-run")


def test_routing_counts_are_the_published_ones(published_data):
    """The transcription equals the result files of the study."""
    import json

    data = json.loads((published_data / "routing" / "published_usage.json").read_text(encoding="utf-8"))
    found = load(AUDITS / "routing.yaml").statements.allocations
    assert found["seed-run"].counts == data["seed_run"]["usage"]
    assert [(p.strength, p.counts) for p in found["sweep"].sweep] == [(p["lambda"], p["usage"]) for p in data["slurm_sweep"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rle-saturation", SATURATION), ("rle-gradient", GRADIENT), ("rle-luna", LUNA)],
    ids=lambda value: str(value)[:14],
)
def test_rle_verdicts(name, expected, published_data):
    """With the attached sessions every verdict of the study comes out."""
    assert verdicts(audit(load(AUDITS / f"{name}.yaml"), published_data)) == expected


def test_rle_without_its_data_asks_for_them():
    """What needs an attached file is not judged without it; what its own numbers decide is."""
    found = verdicts(audit(load(AUDITS / "rle-gradient.yaml")))
    assert (found["aligned"], found["workload-independence"]) == ("NOT_TESTED", "NOT_TESTED")
    assert (found["outcomes"], found["coupling"]) == ("INVALID", "INCONCLUSIVE")


def test_rle_findings_in_attached_data(published_data):
    """The five-hour offset, identical logs, constants, the computed channel, the formula and the missing ticks."""
    gradient = audit(load(AUDITS / "rle-gradient.yaml"), published_data)
    luna = audit(load(AUDITS / "rle-luna.yaml"), published_data)
    assert "-5 h apart: 0% of 201 instants" in sentences(gradient, "repeat-1-clocks")
    assert "identical to the last digit" in sentences(gradient, "workloads")
    assert "'power_w' is 125 in all 180 rows" in sentences(luna, "v2-constants")
    assert "'power_w' is 1.25" in sentences(luna, "v1-power")
    assert "values of a formula" in sentences(luna, "phone")
    assert "51% of the values of 'power_w' repeat" in sentences(luna, "hwinfo")


def test_audits_name_no_exhibit_in_vain():
    """Every exhibit of the case book is used by a claim, or carries a mark of the study that it answers."""
    for path in sorted(AUDITS.glob("*.yaml")):
        statements = load(path).statements
        used = {name for claim in statements.claims for name in (*claim.asserts, *claim.rests_on)}
        idle = [name for _, name, exhibit in statements.exhibits() if name not in used and not exhibit.labels]
        assert idle == [], path.name


@pytest.mark.parametrize("case", sorted(AUDITS.glob("*.yaml")), ids=lambda case: case.stem)
def test_the_published_case_book_is_current(case):
    """``reports/audits`` was made from the statements as they are; ``bench/test_audits.py`` makes it again."""
    published = AUDITS.parent / "reports" / "audits"
    digest = load(case).sha256
    assert json.loads((published / f"{case.stem}.json").read_text(encoding="utf-8"))["sha256"] == digest
    assert digest in (published / f"{case.stem}.html").read_text(encoding="utf-8")
