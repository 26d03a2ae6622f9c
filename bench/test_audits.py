"""The case book: published claims, adjudicated from their own numbers.

Nothing is measured here, so these tests also run without ``--physics``. They build ``reports/audits/`` anew; where the published data that
two of the audits attach are not there, they build into a temporary directory instead, because the result then says less.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_physics.audit.judge import audit
from pytest_physics.audit.loader import load
from pytest_physics.audit.machine import as_json
from pytest_physics.audit.page import render

ROOT = Path(__file__).parents[1]
CASES = sorted((ROOT / "audits").glob("*.yaml"))
DATA = Path(os.environ.get("PYTEST_PHYSICS_PUBLISHED_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def case_book(tmp_path):
    return ROOT / "reports" / "audits" if (DATA / "rle").is_dir() else tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_published_claims_are_adjudicated(case, case_book):
    found = audit(load(case), DATA if DATA.is_dir() else None)
    case_book.mkdir(parents=True, exist_ok=True)
    (case_book / f"{case.stem}.html").write_text(render(found), encoding="utf-8")
    data = json.dumps(as_json(found), indent=1, ensure_ascii=False, allow_nan=False)
    (case_book / f"{case.stem}.json").write_text(data + "\n", encoding="utf-8")
    assert found.exit_code in {1, 10}, "none of these reports holds entirely"
