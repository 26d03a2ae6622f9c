"""The result of an audit as JSON: every verdict, every finding with its arithmetic.

History of the format
    1   first version.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pytest_physics.audit.judge import ORDER, Audit, Examined, Ruling
from pytest_physics.metrology.forensics.finding import Finding

SCHEMA_VERSION = 1


def as_json(audit: Audit) -> dict[str, Any]:
    """Plain values, ready for ``json.dumps``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "title": audit.title,
        "source": audit.source.model_dump(mode="json"),
        "audited": audit.name,
        "sha256": audit.sha256,
        "exit_code": audit.exit_code,
        "verdict_counts": {verdict.value: sum(r.verdict is verdict for r in audit.rulings) for verdict in ORDER},
        "claims": [_ruling(ruling) for ruling in audit.rulings],
        "exhibits": [_examined(part) for part in audit.examined],
    }


def _ruling(ruling: Ruling) -> dict[str, Any]:
    return {
        **ruling.claim.model_dump(mode="json"),
        "verdict": ruling.verdict.value,
        "reason": ruling.reason,
        "would_decide": ruling.needs,
        "grounds": [{"of": ground.id, "check": ground.finding.check, "effect": ground.finding.effect.name} for ground in ruling.grounds],
    }


def _examined(part: Examined) -> dict[str, Any]:
    exhibit = part.exhibit
    return {
        "id": part.id,
        "section": part.section,
        "title": exhibit.title,
        "where": exhibit.where,
        "labels": exhibit.labels,
        "findings": [_finding(finding) for finding in part.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "effect": finding.effect.name, "steps": list(finding.steps)}
