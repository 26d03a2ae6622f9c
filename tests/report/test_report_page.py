"""Rules of the HTML report, checked on runs from tidy to hostile."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import synthetic

from pytest_physics.errors import RecordError
from pytest_physics.metrology.uncertainty import mean
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import GateRecord
from pytest_physics.report.build import build_report
from pytest_physics.report.summary import ORDER, last_attempts

VOID = {"meta", "link", "br", "hr", "img", "input"}
CSP = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class Page(HTMLParser):
    """Elements of a page, with a check that they are closed in the order in which they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.problems: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="session")
def any_parsed(any_page):
    return Page(any_page)


@pytest.fixture(scope="session")
def full(full_page):
    return Page(full_page)


# --- one file, offline, safe --------------------------------------------------------------------------------------------------


def test_the_policy_forbids_every_request(any_parsed):
    """The content security policy is the strict one, and stands before anything it governs."""
    policies = [m for m in any_parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert [m["content"] for m in policies] == [CSP]
    names = [name for name, _ in any_parsed.elements]
    assert names.index("meta") < min(names.index("style"), names.index("script"))


def test_nothing_points_to_a_network(any_parsed):
    """No attribute holds an address with a scheme or host; links lead into the page, to files beside it, or to embedded data."""
    for tag, attributes in any_parsed.elements:
        for name, value in attributes.items():
            assert not re.search(r"https?:|(^|[\s'\"(])//", value), (tag, name, value)
        address = attributes.get("href", attributes.get("src"))
        if address is not None:
            assert address.startswith(("#", "./", "data:image/svg+xml,")), (tag, address)
    assert not {"iframe", "object", "embed", "form", "base", "img"} & {tag for tag, _ in any_parsed.elements}


def test_styles_load_nothing(any_page):
    """No import, and no address in a style other than references within a figure."""
    assert "@import" not in any_page
    assert all(target.startswith("#fig-") for target in re.findall(r"url\(([^)]*)\)", any_page))


def test_hostile_names_stay_text(runs):
    """A name that closes tags, quotes and scripts appears as text only: there are exactly the page's own two scripts."""
    page = (runs["hostile"] / "report.html").read_text(encoding="utf-8")
    parsed = Page(page)
    assert len(parsed.all("script")) == 2
    assert "<script>alert" not in page
    assert not any("onerror" in name or name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert any("<script>alert(1)</script>" in text for text in parsed.texts["a"])
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", page)


def test_hostile_evidence_is_no_link(runs):
    """Evidence that is not a file of the run is shown, never linked."""
    parsed = Page((runs["hostile"] / "report.html").read_text(encoding="utf-8"))
    assert not any("javascript" in a.get("href", "") for a in parsed.all("a"))
    assert "javascript:alert(1)" in parsed.texts["code"]


@pytest.mark.parametrize("text", ["../secret.txt", "/etc/hostname", "trace-none.npy", "sub/../../secret.txt", ""])
def test_evidence_outside_the_run_is_no_link(tmp_path, text):
    """A path leads nowhere unless its file lies inside the run directory."""
    (tmp_path / "secret.txt").write_text("x")
    path = synthetic.write_cpu_run(tmp_path / "run")
    record = synthetic.claim("c", "A claim", None, evidence=[text])
    (path / "claims.jsonl").write_text(record.model_dump_json() + "\n")
    links = [a["href"] for a in Page(build_report(path).read_text(encoding="utf-8")).all("a")]
    assert not any("secret" in link or "hostname" in link or "none" in link for link in links)


def test_a_file_name_with_signs_is_linked_by_its_quoted_name(runs):
    """Blanks, ampersands and brackets are percent-encoded."""
    parsed = Page((runs["hostile"] / "report.html").read_text(encoding="utf-8"))
    assert "./a%20file%20%26%20%3Cname%3E.txt" in {a.get("href") for a in parsed.all("a")}


# --- well-formed, accessible --------------------------------------------------------------------------------------------------


def test_elements_are_closed_in_order(any_parsed):
    """The page is well-formed."""
    assert any_parsed.problems == []
    assert any_parsed.open == []


def test_figures_are_well_formed_xml(any_page):
    """Each inline SVG parses on its own, has a name, and takes no fixed colour."""
    figures = re.findall(r"<svg class=.*?</svg>", any_page, flags=re.DOTALL)
    assert figures
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.get("aria-label") or root.get("aria-hidden") == "true"
        assert not re.findall(r"#[0-9a-f]{6}\b", figure)
        assert "$" not in "".join(root.itertext()).replace("$x", "")


def test_ids_are_unique_and_every_fragment_exists(any_parsed):
    """Links within the page and references of figures lead somewhere, to one place."""
    ids = [attributes["id"] for _, attributes in any_parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for _, a in any_parsed.elements if a.get("href", "").startswith("#")}
    referenced = {match for _, a in any_parsed.elements for v in a.values() for match in re.findall(r"url\(#([^)]+)\)", v)}
    labels = {a["aria-labelledby"] for _, a in any_parsed.elements if "aria-labelledby" in a}
    assert targets | referenced | labels <= set(ids)


def test_the_skeleton_serves_assistive_technology(any_parsed):
    """Language, title, one h1, one main, a skip link first, headings without skipped levels."""
    tags = [tag for tag, _ in any_parsed.elements]
    assert any_parsed.all("html") == [{"lang": "en"}]
    assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
    assert any_parsed.all("a")[0] == {"class": "skip", "href": "#claims"}
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_table_has_caption_and_scopes(any_parsed):
    """Each table has a caption; each header cell says what it heads."""
    tags = [tag for tag, _ in any_parsed.elements]
    assert tags.count("table") == tags.count("caption") > 0
    assert all(th.get("scope") in {"col", "row"} for th in any_parsed.all("th"))


def palette(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", css))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_known_for_black_on_white():
    """The formula gives 21 for black on white, and 1 for equal colours."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#777777") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(full_page, scheme):
    """Every colour that text may have stands out from every background by at least 4.5, in both schemes."""
    light, dark = re.findall(r":root \{(.*?)\}", full_page, flags=re.DOTALL)[:2]
    colours = palette(light) | (palette(dark) if scheme == "dark" else {})
    texts = ["ink", "muted", "link", "refuted", "invalid", "inconclusive", "validated", "not-tested"]
    for text in texts:
        for background in ("page", "surface"):
            assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
    assert contrast(colours["ink"], colours["notice"]) >= 4.5
    assert contrast(colours["ink"], colours["band"]) >= 4.5
    assert contrast(colours["muted"], colours["band"]) >= 4.5  # labels of figures may lie on a phase


# --- contents -----------------------------------------------------------------------------------------------------------------


def test_title_and_heading_carry_the_verdict(full):
    """The tab and the first line say how the run ended."""
    assert full.texts["title"][0].startswith("REFUTED: 1 of 9 claims is refuted;")
    assert full.texts["h1"] == ["1 of 9 claims is refuted; 1 invalid, 1 inconclusive, 4 validated, 2 not tested."]


def test_all_claims_stand_in_the_table_in_the_order_of_verdicts(runs, full_page):
    """Every claim once, by its last attempt, worst first; its row leads to its details."""
    claims = last_attempts(RunReader(runs["full"]).claims)
    order = [ORDER.index(claim.verdict) for claim in claims]
    assert order == sorted(order)
    assert len(claims) == 9
    rows = re.findall(r'<tr class="[a-z-]+" id="row-(claim-[^"]+)">', full_page)
    assert len(rows) == len(claims)
    for row, claim in zip(rows, claims, strict=True):
        assert row.startswith(f"claim-{claim.id.replace('_', '-')}")
        assert full_page.count(f'id="{row}"') == full_page.count(f'href="#{row}"') == 1


def test_every_attempt_is_shown(full_page):
    """A claim that was INVALID first and VALIDATED then says both."""
    assert "1: INVALID (sampler gaps (latency): 31 % of the window (limit 10 %)); 2: VALIDATED" in full_page


def test_simulated_numbers_are_marked_where_they_stand(full_page):
    """The banner, each claim and each result say that they are simulated."""
    assert "GPU numbers are simulated" in full_page
    table = full_page[full_page.index('<table class="claims">') : full_page.index('id="details"')]
    assert table.count('<span class="sim">simulated</span>') == 7
    assert "7 of 7 judged claims rest on a simulated device" in full_page


def test_estimates_stand_beside_the_truth(full_page):
    """Where the truth is known, the page shows it, says whether the interval holds it, and counts."""
    assert "22 of 23 intervals hold the truth" in full_page
    assert "✗ no" in full_page


def test_every_distinct_gate_is_in_the_validity_table(runs, full_page):
    """Refusals and warnings first with reason and remedy, then what passed, and the count of all."""
    reader = RunReader(runs["full"])
    records = [g for c in reader.claims for g in (*c.gates, *c.own_gates)] + [
        g for r in (*reader.results, *reader.baselines) for g in r.gates
    ]
    n = len({gate.model_dump_json() for gate in records})
    part = full_page[full_page.index('id="validity"') : full_page.index('id="experiments"')]
    assert f"{n - 2} of {n} distinct gates passed, 1 warned, 1 refused." in part
    assert part.count('<span class="result-') == n > 12
    assert part.index("idle power drifted 4.1 W") < part.index("other processes used 7 %") < part.index("decode batch 8 repetition 3")
    assert "Let the machine settle" in part


def test_what_the_run_does_not_show_is_generated(full_page):
    """Absent channels, untested and invalid claims, simulation, scale, profile and warnings are all named."""
    part = full_page[full_page.index('id="limits"') : full_page.index('id="environment"')]
    for words in (
        "no powercap interface", "The memory stays below 95 °C", "idle drift (joule curve)", "uncalibrated scale, u = 3.7 %",
        "Profile &#39;quick&#39; measures less than &#39;publish&#39;", "foreign load (latency)", "1 of 23 intervals",
    ):  # fmt: skip
        assert words in part, words


def test_a_publish_run_is_not_called_short(runs):
    """No caveat without its cause."""
    page = (runs["cpu"] / "report.html").read_text(encoding="utf-8")
    assert "measures less than" not in page
    assert "simulated device" not in page
    assert "distinct gates" not in page


def test_every_section_has_its_figure(full_page):
    """Run, baselines, soak, joule curve and sampler are drawn; captions disclaim numbers from drawings."""
    for name in ("fig-run-gpu", "fig-run-cpu", "fig-baseline-b1", "fig-soak-", "fig-joule-curve", "fig-jitter-cpu"):
        assert f'<figure id="{name}' in full_page
    assert full_page.count("Numbers are computed from raw data, not from the drawing.") == full_page.count("<figcaption>")
    assert full_page.count("Understanding this.") == 6


def test_an_incomplete_run_says_so_on_top(runs):
    """Title and banner of a crashed run say that it is incomplete, and why."""
    parsed = Page((runs["crashed"] / "report.html").read_text(encoding="utf-8"))
    assert parsed.texts["title"][0].startswith("INCOMPLETE, NOT_TESTED: No claim was judged")
    assert "This run is incomplete: it was never finalised" in parsed.texts["p"][0]
    assert "gpu: at least 20 s" in " ".join(parsed.texts["dd"])


def test_a_complete_run_is_not_called_incomplete(full_page):
    """The word belongs to runs that did not finish."""
    assert "incomplete:" not in full_page
    assert "INCOMPLETE" not in full_page


def test_channels_without_a_valid_sample_are_named(runs):
    """A channel that failed throughout is not silently left out of the overview."""
    assert "Without a single valid sample: power_w." in (runs["crashed"] / "report.html").read_text(encoding="utf-8")


def test_artifacts_are_listed_with_their_digests(runs, full):
    """Each file beside the report is linked with its SHA-256; the report does not list itself."""
    hashes = "".join(full.texts["span"])
    for path in runs["full"].iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (digest in hashes) == (path.name != "report.html"), path.name


def test_machine_readable_data_agrees_with_the_page(runs, full_page):
    """The embedded JSON has the schema version, the counts and every claim."""
    data = synthetic.embedded_data(full_page)
    assert data["schema_version"] == 1
    assert data["verdict"] == "REFUTED"
    assert data["verdict_counts"] == {"REFUTED": 1, "INVALID": 1, "INCONCLUSIVE": 1, "VALIDATED": 4, "NOT_TESTED": 2}
    assert [c["id"] for c in data["claims"]] == [c.id for c in last_attempts(RunReader(runs["full"]).claims)]
    assert [g["name"] for c in data["claims"] for g in c["gates_failed"] if c["verdict"] == "INVALID"] == ["idle drift"]


def test_hostile_data_cannot_close_its_script(runs):
    """`</` is escaped in the embedded JSON, and reads back as it was."""
    page = (runs["hostile"] / "report.html").read_text(encoding="utf-8")
    assert {c["id"] for c in synthetic.embedded_data(page)["claims"]} == {synthetic.HOSTILE, "zero"}


# --- building -----------------------------------------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_bytes(any_run):
    """Building again, over the report that is there, changes nothing."""
    before = (any_run / "report.html").read_bytes()
    assert build_report(any_run).read_bytes() == before
    assert not list(any_run.glob(".*"))


def test_a_users_matplotlib_settings_change_nothing(runs):
    """The page does not depend on matplotlibrc, and drawing leaves the settings as they were."""
    import matplotlib as mpl

    before = (runs["full"] / "report.html").read_bytes()
    with mpl.rc_context({"lines.linewidth": 9.0, "axes.facecolor": "red", "text.parse_math": True}):
        assert build_report(runs["full"]).read_bytes() == before
        assert mpl.rcParams["lines.linewidth"] == 9.0


def test_the_page_is_small(any_page):
    """At most 1 MB, with 10⁵ samples too."""
    assert len(any_page.encode()) <= 1_000_000


def test_many_gates_and_long_recipes_stay_within_the_budget(tmp_path):
    """A claim over 400 windows with 5 gates each is summarised, not listed."""
    path = synthetic.write_cpu_run(tmp_path / "run")
    gates = [GateRecord.of(synthetic.gate(f"check {i}", f"window {w}", 0.1 * w, 50.0, "1")) for w in range(400) for i in range(5)]
    estimate = mean([synthetic.energy(1.0, "J", key=str(w)) for w in range(400)])
    record = synthetic.claim("c", "Many windows", estimate <= 9.0).model_copy(update={"gates": gates})
    (path / "claims.jsonl").write_text(record.model_dump_json() + "\n")
    page = build_report(path).read_text(encoding="utf-8")
    assert len(page) < 400_000
    assert "400 places" in page
    assert "the first 300 of 2000" in page
    assert "smaller terms, together" in page
    assert "… 394 more inputs" in page


def test_an_unreadable_trace_costs_only_its_figures(runs, tmp_path):
    """The report is built and names the trace that it could not read."""
    path = tmp_path / "run"
    shutil.copytree(runs["full"], path)
    (path / "trace-gpu.npy").write_bytes(b"broken")
    page = build_report(path).read_text(encoding="utf-8")
    assert "No figures of &#39;gpu&#39;: trace-gpu.npy is not a readable trace" in page
    assert 'id="fig-run-cpu"' in page


def test_unreadable_claims_are_an_error_and_leave_the_old_report(runs, tmp_path):
    """A report must not be built from half of the claims."""
    path = tmp_path / "run"
    shutil.copytree(runs["full"], path)
    before = (path / "report.html").read_bytes()
    with (path / "claims.jsonl").open("a") as file:
        file.write(json.dumps({"id": "c"}) + "\n")
    with pytest.raises(RecordError, match=r"claims\.jsonl, line 11"):
        build_report(path)
    assert (path / "report.html").read_bytes() == before


def test_a_directory_without_a_run_is_refused(tmp_path):
    """The message names the directory."""
    with pytest.raises(RecordError, match="not a run directory"):
        build_report(tmp_path)
