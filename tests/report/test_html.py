from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError

from pairclean.pairs import Roles
from pairclean.report import (
    Gallery,
    Pick,
    Tile,
    choose_gallery,
    finding_section,
    load_thumbnails,
    pick_examples,
    read_captions,
    render_html,
    summarise,
)
from pairclean.report.figures import histogram, nice_ticks
from pairclean.report.html import _form, _shown, _visible


class Page(HTMLParser):
    """The parsed page: start tags with their attributes, <data> elements, text and scripts."""

    VOID = frozenset({"meta", "link", "img", "input", "col"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.data: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(source)
        assert self.stack == []  # everything opened was closed, in order

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)
        if tag == "data":
            self.data.append((dict(attrs), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in self.raw:
            self.raw[self.stack[-1]].append(data)
            return
        if self.stack and self.stack[-1] == "data":
            self.data[-1] = (self.data[-1][0], self.data[-1][1] + data)
        self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(report: dict[str, Any], gallery: Gallery, folder: Path) -> Page:
    render_html(report, gallery, folder / "report.html")
    assert [p.name for p in folder.iterdir()] == ["report.html"]  # nothing half-written stays behind
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def one_tile(caption: str | None, **fields: Any) -> Gallery:
    pick = Pick(
        **{"section": "mismatches", "pair_id": "p", "shard": "s", "row": 0, "caption_index": 0}
        | {"verdict": "noisy"}
        | fields
    )
    return Gallery((Tile(pick, caption, None, "no picture"),))


@pytest.fixture
def report(fabricated_run: Any) -> dict[str, Any]:
    return summarise(fabricated_run.verdicts, fabricated_run.facts)


@pytest.fixture
def full_page(fabricated_run: Any, report: dict[str, Any], tmp_path: Path) -> Page:
    picks = choose_gallery(fabricated_run.verdicts)
    gallery = load_thumbnails(picks, fabricated_run, read_captions(picks, fabricated_run.metadata))
    return page_of(report, gallery, tmp_path)


def at(report: Any, path: str) -> Any:
    for part in path.split("."):
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


def test_every_number_equals_report_json(full_page: Page, report: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(report))
    shown = {attrs["data-path"]: attrs["value"] for attrs, _ in full_page.data if "data-path" in attrs}
    for path, value in shown.items():
        assert path is not None
        assert value is not None
        assert json.loads(value) == at(stored, path), path
    wanted = {"pairs", "flagged", "flag_below", "min_precision", "rematch.emitted", "rematch.expected_precision"}
    wanted |= {f"mismatch_rate.{name}" for name in ("estimate", "low", "high", "level")}
    wanted |= {f"verdicts.{name}" for name in stored["verdicts"]} | {f"seconds.{name}" for name in stored["seconds"]}
    wanted |= {
        f"retrieval.{side}.{name}" for side in ("zero_shot", "aligned") for name in stored["retrieval"]["aligned"]
    }
    wanted |= {f"clean_probability_histogram.{part}.{i}" for part in ("kept", "flagged") for i in range(40)}
    wanted |= {f"score_histogram.{part}.{i}" for part in ("observed", "decoys") for i in range(50)}
    wanted |= {f"calibration_check.{part}.{i}" for part in ("said", "found", "low", "high") for i in (0, 1, 8, 9)}
    wanted |= {"calibration_check.gap", "groups.0.groups.0.rate", "groups.0.groups.1.judged"}
    wanted |= {f"rematch_curve.expected.{i}" for i in range(4)} | {f"rematch_curve.measured.{i}" for i in range(1, 4)}
    wanted |= {f"{by}.1.wrong_left.{end}" for by in ("thresholds", "human.thresholds") for end in ("low", "high")}
    assert wanted <= set(shown)


def test_the_text_says_what_the_value_is(full_page: Page) -> None:
    texts = {attrs.get("data-path"): text for attrs, text in full_page.data}
    assert texts["pairs"] == "420"
    assert texts["mismatch_rate.estimate"] == "41.2%"
    assert texts["mismatch_rate.level"] == "95%"
    assert texts["rematch.expected_precision"] == "93.1%"
    assert texts["seconds.embed"] == "1 min 23 s"
    assert texts["retrieval.zero_shot.i2t_r5"] == "55.0"
    text = full_page.words()
    assert "41.2% of 420 pairs are estimated to be mismatched, between 38.7% and 44.0% with 95% confidence." in text
    assert "text → image, R@10 64.2 63.9 −0.3" in text
    assert "failed_to_download: HTTP 404 6" in text
    assert "0.5 260 22 ( 21 to 22 ) 12 ( 12 to 13 )" in text
    assert "0.05 401 170 ( 170 to 170 ) –" in text
    assert "by these labels 45.0% of the pairs are mismatched, between 38.0% and 52.0%" in text


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.0, "percent", "0.0%"), (0.0001, "percent", "<0.1%"), (0.99999, "percent", ">99.9%"),
        (1.0, "percent", "100.0%"),
        (1234567, "count", "1,234,567"), (1e-9, "probability", "<0.001"), (0.99999, "probability", ">0.999"),
        (1.0, "probability", "1.000"), (-0.25, "similarity", "−0.250"), (0.04, "seconds", "0.0 s"),
        (59.97, "seconds", "1 min 00 s"),
        (3599.7, "seconds", "1 h 00 min"), (7325, "seconds", "2 h 02 min"), (None, "percent", "–"),
    ],
)  # fmt: skip
def test_forms(value: float | None, form: str, text: str) -> None:
    assert _form(value, form) == text


def test_hostile_captions_stay_text(full_page: Page) -> None:
    text = "".join(full_page.text)
    assert "<script>document.title = 'owned'; alert(1)</script>" in text
    assert '"><img src=x onerror="document.title=\'owned\'">' in text
    assert "{{ 7 * 7 }} {% raw %} </li></ul></section>" in text
    assert len(full_page.named("script")) == 1
    assert not any(name.startswith("on") for _, attrs in full_page.tags for name in attrs)
    assert {(img["src"] or "")[:23] for img in full_page.named("img")} == {"data:image/jpeg;base64,"}
    assert not any("style" in attrs for _, attrs in full_page.tags)


@pytest.mark.parametrize("field", ["pair_id", "reason", "verdict", "rematch_caption", "rematch_pair_id", "caption"])
def test_every_field_of_a_tile_is_escaped(field: str, report: dict[str, Any], tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>\u202e'
    fields = {} if field == "caption" else {field: evil}
    section = "rematches" if field.startswith("rematch") else "mismatches"
    page = page_of(report, one_tile(evil if field == "caption" else "x", section=section, **fields), tmp_path)
    assert len(page.named("script")) == 1
    assert "\u202e" not in page.source
    assert '"><script>alert(1)</script>‹U+202E›' in "".join(page.text)


def test_every_text_of_the_report_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    keys = ("version", "source", "layout", "model", "method", "score", "calibration", "device")
    facts: dict[str, Any] = dict.fromkeys(keys, evil) | {"notes": [evil], "seconds": {evil: 1.5}}
    facts["score_histogram"] = {"edges": [0.0, 1.0], "observed": [1], "decoys": [0.5]}
    page = page_of(summarise([], facts) | {"unreadable_reasons": {evil: 1}}, Gallery(), tmp_path)
    assert len(page.named("script")) == 1
    assert "".join(page.text).count(evil) >= 10


def test_the_policy_admits_only_the_pages_own_script_and_style(full_page: Page) -> None:
    [policy] = [m["content"] for m in full_page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256("".join(full_page.raw[kind]).encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy


def test_nothing_is_fetched(full_page: Page) -> None:
    for tag, attrs in full_page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            target = attrs.get(name) or "#"
            assert target.startswith(("#", "data:")), (tag, target)
    assert not re.search(r"url\(|@import|https?://", full_page.source)


def test_groups_are_shown_with_their_intervals(full_page: Page) -> None:
    text = full_page.words()
    assert "by <b>shop" in text
    assert "<script>document.title = 'owned'; alert(1)</script> 80.0% 78 none given * 20.0% 9 of nothing * – 0" in text
    assert "and 11 smaller groups" in text
    bands = [r for r in full_page.named("rect") if r["class"] == "band" and r["y"] == "25%"]
    assert [(band["x"], band["width"]) for band in bands] == [("71%", "17%"), ("5%", "39%")]


def test_findings_come_first_with_their_command_and_their_pictures(
    fabricated_run: Any, report: dict[str, Any], tmp_path: Path
) -> None:
    picks = pick_examples(fabricated_run.verdicts, [np.array([2, 0]), np.array([], np.int64)])
    assert [(pick.section, pick.row) for pick in picks] == [(finding_section(0), 0), (finding_section(0), 2)]
    captions = read_captions(picks, fabricated_run.metadata)
    page = page_of(report, load_thumbnails(picks, fabricated_run, captions), tmp_path)
    text = page.words()
    assert (
        "80 pairs, 25.0% of all; 3 of them have another caption now. Next: pairclean audit RUN --by '<b>shop'" in text
    )
    assert "1 pair, 0.3% of all. Next: pairclean show RUN p" in text
    assert text.index("pairclean show RUN p") < text.index("each has exactly one verdict")
    assert [image["src"][:10] for image in page.named("img") if image["src"]] == ["data:image"] * 2
    assert "Most certain mismatches" not in text  # the examples are no part of the gallery
    assert len(page.named("script")) == 1


def test_examples_are_taken_from_every_shard(fabricated_run: Any) -> None:
    sizes = [len(table) for table in fabricated_run.verdicts]
    last = sum(sizes) - 1
    picks = pick_examples(fabricated_run.verdicts, [np.array([last]), np.array([0, sizes[0]])])
    assert [(pick.section, pick.shard) for pick in picks] == [
        (finding_section(0), fabricated_run.shards[-1].name),
        (finding_section(1), fabricated_run.shards[0].name),
        (finding_section(1), fabricated_run.shards[1].name),
    ]


def test_the_calibration_check_draws_a_dot_where_there_are_pairs(full_page: Page) -> None:
    dots = [(dot["cx"], dot["cy"]) for dot in full_page.named("circle")]
    assert dots == [("1%", "100%"), ("14%", "80%"), ("86%", "20%"), ("98%", "1%")]
    assert "this is no comparison with the truth" in full_page.words()


def test_the_rematching_curve(full_page: Page) -> None:
    lines = {path["class"]: path["d"] for path in full_page.named("path")}
    assert lines["line expected"] == "M8.333 33.333L416.667 133.333L750 333.333L1000 933.333"
    assert lines["line measured"] == "M416.667 100L750 300L1000 833.333"
    assert "the 120 proposals" in full_page.words()


def test_broken_files_are_named(full_page: Page) -> None:
    assert "00007.parquet the file ends in the middle of a row group <i>" in full_page.words()


def test_one_is_not_many(tmp_path: Path) -> None:
    report = summarise([], {"mismatch_rate": {"estimate": 1.0, "low": None, "high": None, "level": None}})
    report |= {"pairs": 1, "flagged": 1, "rematch": {"emitted": 1, "expected_precision": None}}
    text = " ".join("".join(page_of(report, Gallery(), tmp_path).text).split())
    assert "100.0% of 1 pair is estimated to be mismatched." in text
    assert "1 pair is flagged: its clean probability is below 0.5. 1 of them was rematched." in text


def test_a_source_without_pictures_gives_cards_of_text(
    fabricated_run: Any, report: dict[str, Any], tmp_path: Path
) -> None:
    fabricated_run.roles = Roles(None, "caption", "key")
    picks = choose_gallery(fabricated_run.verdicts)
    gallery = load_thumbnails(picks, fabricated_run, read_captions(picks, fabricated_run.metadata))
    assert fabricated_run.image_calls == []
    page = page_of(report, gallery, tmp_path)
    assert page.named("img") == []
    assert not [attrs for attrs in page.named("div") if attrs.get("class") == "picture"]
    assert len([attrs for attrs in page.named("li") if attrs.get("class") == "tile"]) == 96
    [section] = [attrs for attrs in page.named("section") if attrs.get("id") == "gallery"]
    assert section["class"] == "wide text-only"
    assert "Pairs 96 of 420 pairs" in page.words()


def test_a_very_long_caption_is_cut_and_says_so(report: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(report, one_tile("word " * 20_000), tmp_path)
    assert "the caption has 100,000 characters" in "".join(page.text)
    assert len(page.source) < 200_000
    assert _shown("a" * 1000) == "a" * 1000
    assert _shown("a" * 1001) == "a" * 1000 + " … (the caption has 1,001 characters)"
    assert _shown("  a \n\t b  ") == "a b"


def test_the_page_stays_below_ten_megabytes_for_the_worst_captions(
    fabricated_run: Any, report: dict[str, Any], tmp_path: Path
) -> None:
    picks = choose_gallery(fabricated_run.verdicts)
    captions: dict[str, str | None] = {pick.pair_id: '"' * 100_000 for pick in picks}
    page_of(report, load_thumbnails(picks, fabricated_run, captions), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 10_000_000


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("plain", "plain"),
        ("nul\x00bell\x07", "nul␀bell␇"),
        ("\x85\x9b\ud800", "���"),
        ("\u202eabc\u2066", "‹U+202E›abc‹U+2066›"),
        ("e" + "\u0301" * 50, "e" + "\u0301" * 4),
        ("مرحبا 🏳️‍🌈 किताब", "مرحبا 🏳️‍🌈 किताब"),
    ],
)
def test_invisible_characters_become_visible(text: str, visible: str) -> None:
    assert _visible(text) == visible
    assert _visible(visible) == visible


def test_a_report_of_nothing(tmp_path: Path) -> None:
    page = page_of(summarise([], {}), Gallery(), tmp_path)
    text = page.words()
    assert "No mismatch rate could be estimated for 0 pairs" in text
    assert "No pair could be judged." in text
    assert not any(attrs.get("id") in ("gallery", "retrieval") for _, attrs in page.tags)


def test_an_encoder_without_zero_shot(report: dict[str, Any], tmp_path: Path) -> None:
    report["retrieval"]["zero_shot"] = None
    page = page_of(report, Gallery(), tmp_path)
    text = page.words()
    assert "There is no zero-shot column" in text
    assert "Recall aligned image → text, R@1 44.8 image → text, R@5 70.3" in text


def test_without_learning_it_says_so(report: dict[str, Any], tmp_path: Path) -> None:
    report["retrieval"] |= {"learned": False, "aligned": report["retrieval"]["zero_shot"]}
    text = page_of(report, Gallery(), tmp_path).words()
    assert "Nothing was learned: the run uses the encoder alone." in text
    assert "Recall zero-shot image → text, R@1 31.2" in text
    assert "Recall zero-shot aligned" not in text


def test_rates_without_intervals(fabricated_run: Any, tmp_path: Path) -> None:
    facts = fabricated_run.facts
    for name in ("low", "high"):
        for rate in (facts["mismatch_rate"], *facts["groups"][0]["groups"]):
            rate[name] = None
    page = page_of(summarise(fabricated_run.verdicts, facts), Gallery(), tmp_path)
    assert "41.2% of 420 pairs are estimated to be mismatched." in page.words()
    assert not [svg for svg in page.named("svg") if svg.get("class") in ("interval", "small-interval")]
    facts["mismatch_rate"] = dict.fromkeys(("estimate", "low", "high", "level"))
    (tmp_path / "report.html").unlink()
    text = page_of(summarise(fabricated_run.verdicts, facts), Gallery(), tmp_path).words()
    assert "No mismatch rate could be estimated" in text


def test_the_check_says_how_many_were_lowered_since(report: dict[str, Any], tmp_path: Path) -> None:
    assert "rematching lowered" not in page_of(report, Gallery(), tmp_path).words()
    report["calibration_check"]["overturned"] = 12
    (tmp_path / "report.html").unlink()
    assert "rematching lowered that of 12 pairs afterwards." in page_of(report, Gallery(), tmp_path).words()


@pytest.mark.parametrize("decoys", [None, [0.0] * 49 + [float("nan")]])
def test_without_a_rate_there_is_no_decoy_curve(fabricated_run: Any, decoys: Any, tmp_path: Path) -> None:
    facts = fabricated_run.facts | {"mismatch_rate": None}
    facts["score_histogram"] = facts["score_histogram"] | {"decoys": decoys}
    page = page_of(summarise(fabricated_run.verdicts, facts), Gallery(), tmp_path)
    assert "decoys" not in [path["class"] for path in page.named("path")]
    assert "No mismatch rate could be estimated for 420 pairs: see the notes." in page.words()
    assert len([1 for rect in page.named("rect") if rect["class"] == "pairs"]) > 30


def test_a_tile_without_caption_picture_or_probability(report: dict[str, Any], tmp_path: Path) -> None:
    text = "".join(page_of(report, one_tile(None), tmp_path).text)
    assert "no caption" in text
    assert "no picture" in text


def test_the_report_as_read_from_json_gives_the_same_page(report: dict[str, Any], tmp_path: Path) -> None:
    render_html(report, Gallery(), tmp_path / "a.html")
    render_html(json.loads(json.dumps(report)), Gallery(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_failed_rendering_leaves_the_old_page(report: dict[str, Any], tmp_path: Path) -> None:
    render_html(report, Gallery(), tmp_path / "report.html")
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(UndefinedError):
        render_html(report | {"verdicts": {"what": 1}}, Gallery(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.2, 0.8, [-0.2, 0, 0.2, 0.4, 0.6, 0.8]),
        (0, 0, [0]),
        (0, 52, [0, 10, 20, 30, 40, 50]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high, 5) == pytest.approx(ticks)


def test_bars_have_the_height_of_their_counts() -> None:
    figure = histogram([0.0, 0.5, 1.0], [("flagged", [30, 0]), ("kept", [10, 20])], label="x")
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)%" y="([\d.]+)%" width="([\d.]+)%" height="([\d.]+)%">', figure)
    assert bars == [
        ("flagged", "0", "25", "50", "75"),
        ("kept", "0", "0", "50", "25"),
        ("kept", "50", "50", "50", "50"),
    ]
    assert "0 to 0.5: 30 flagged" in figure


def test_words_that_do_not_fit_are_underlined(report: dict[str, Any], tmp_path: Path) -> None:
    pick = Pick("mismatches", "a", "s", 0, 0, "noisy", mismatched_text="a <blue>  box")
    render_html(report, Gallery((Tile(pick, "a red ball,\ta <blue>  box, and so on"),)), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"a red ball, <u title=[^>]*>a &lt;blue&gt; box</u>, and so on", page)
