"""The page in a real browser: it renders, its filters work, its policy holds, and its console stays empty."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pairclean.report import choose_gallery, load_thumbnails, read_captions, render_html, summarise

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian, Ubuntu: apt-get install chromium)")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000",
)  # fmt: skip


class Browser:
    def __init__(self, page: Path) -> None:
        self.page, self.runs = page, 0

    def run(self, *flags: str, page: Path | None = None, hash: str = "") -> subprocess.CompletedProcess[str]:
        self.runs += 1
        profile = self.page.parent / f"profile-{self.runs}"
        url = (page or self.page).as_uri() + hash
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, url]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True)

    def dom(self, page: Path | None = None, hash: str = "") -> tuple[str, list[str]]:
        """The page's DOM after its script ran, and what the console said."""
        done = self.run("--dump-dom", page=page, hash=hash)
        return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


@pytest.fixture
def browser(fabricated_run: Any, tmp_path: Path) -> Browser:
    picks = choose_gallery(fabricated_run.verdicts)
    gallery = load_thumbnails(picks, fabricated_run, read_captions(picks, fabricated_run.metadata))
    render_html(summarise(fabricated_run.verdicts, fabricated_run.facts), gallery, tmp_path / "report.html")
    return Browser(tmp_path / "report.html")


def tiles(dom: str) -> list[tuple[bool, str, str]]:
    """(visible, verdict, text) of each tile."""
    found = re.findall(r'<li class="tile" data-verdict="(\w+)"( hidden="")?>(.*?)</li>', dom, re.S)
    return [(not hidden, verdict, re.sub(r"<[^>]*>", " ", body)) for verdict, hidden, body in found]


def visible_galleries(dom: str) -> list[str]:
    found = re.findall(r'<section class="gallery \w+" data-section="(\w+)"[^>]*?( hidden="")?>', dom)
    return [name for name, hidden in found if not hidden]


def found_text(dom: str) -> str:
    match = re.search(r'id="found"[^>]*>([^<]*)<', dom)
    assert match
    return match[1]


def test_it_renders_and_the_console_is_empty(browser: Browser) -> None:
    dom, console = browser.dom()
    assert console == []
    assert "<title>&lt;i&gt;autumn catalogue – pairclean report</title>" in dom  # no caption's script changed it
    assert re.search(r'<form class="filter" id="filter" role="search">', dom)  # shown by the script
    assert found_text(dom) == "96 pairs"
    assert [visible for visible, _, _ in tiles(dom)] == [True] * 96


def test_search_shows_the_tiles_with_all_the_words(browser: Browser) -> None:
    dom, console = browser.dom(hash="#q=RED%20circle")
    assert console == []
    shown = [text for visible, _, text in tiles(dom) if visible]
    hidden = [text for visible, _, text in tiles(dom) if not visible]
    assert shown
    assert hidden
    assert all("red" in text and "circle" in text for text in shown)
    assert not any("red" in text and "circle" in text for text in hidden)
    assert found_text(dom) == f"{len(shown)} of 96 pairs"


def test_filters_by_verdict_and_gallery_together(browser: Browser) -> None:
    dom, console = browser.dom(hash="#verdict=noisy&section=borderline")
    assert console == []
    assert visible_galleries(dom) == ["borderline"]
    borderline = tiles(dom)[24:48]
    assert [visible for visible, _, _ in borderline] == [verdict == "noisy" for _, verdict, _ in borderline]
    assert sum(visible for visible, _, _ in tiles(dom)) == sum(verdict == "noisy" for _, verdict, _ in borderline) > 0
    assert re.search(r'data-section="borderline" aria-pressed="true"', dom)
    assert re.search(r'data-section="" aria-pressed="false"', dom)


def test_a_search_without_a_result_says_so(browser: Browser) -> None:
    dom, console = browser.dom(hash="#q=%3Cscript%3E+nowhere&verdict=%22%3E&section=constructor")
    assert console == []
    assert found_text(dom) == "0 of 96 pairs"
    assert visible_galleries(dom) == []
    assert re.search(r'<p class="empty" id="empty">', dom)
    assert not re.search(r'<p class="empty" id="empty">', browser.dom()[0])


def test_the_policy_stops_a_script_that_escaping_would_have_missed(browser: Browser) -> None:
    page = browser.page.read_text(encoding="utf-8")
    evil = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    broken = browser.page.with_name("broken.html")
    broken.write_text(page.replace("</main>", f"{evil}</main>"), encoding="utf-8")
    dom, console = browser.dom(broken)
    assert "autumn catalogue – pairclean report</title>" in dom
    assert sum("Content Security Policy" in line for line in console) >= 2


# A copy of the page without its policy, so that a probe can drive it; it reports to the page around it, whose frame has
# the width that is wanted (Chromium's window is never narrower than 500 pixels).
HOST = """<meta name="color-scheme" content="light dark">
<iframe src="probe.html" width="{width}" height="900" style="border: 0">
</iframe><script>addEventListener("message", (event) => {{
  document.documentElement.dataset.result = encodeURIComponent(JSON.stringify(event.data));
}})</script>"""
PROBE = """<script>
addEventListener("load", () => {
  const result = {};
  const type = (text) => { search.value = text; search.dispatchEvent(new Event("input")); };
  const shown = () => document.querySelectorAll(".tile:not([hidden])").length;
  result.width = innerWidth;
  result.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  result.all = shown();
  type("script");
  result.script = shown();
  result.hash = location.hash;
  type("");
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true, cancelable: true }));
  result.slash = document.activeElement.id;
  type("script");
  search.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  result.escaped = [search.value, shown()];
  document.querySelector('button[data-section="rematches"]').click();
  result.rematches = shown();
  document.querySelector('button[data-section=""]').click();
  result.again = shown();
  const focusable = [...document.querySelectorAll("a, button, input, select, summary, [tabindex]")];
  result.unfocusable = focusable.filter((e) => e.checkVisibility() && (e.focus(), document.activeElement !== e)).length;
  result.bars = [...document.querySelectorAll(".small-interval .band")].map((e) => e.getBoundingClientRect().width > 0);
  result.points = [...document.querySelectorAll(".dot")].map((e) => e.getBoundingClientRect().width > 0);
  result.images = [...document.images].filter((i) => { i.loading = "eager"; return i.alt; }).length;
  result.theme = getComputedStyle(document.documentElement).backgroundColor;
  parent.postMessage(result, "*");
});
</script></body>"""


def probe(browser: Browser, width: int, *flags: str) -> dict[str, Any]:
    page = re.sub(r"<meta http-equiv[^>]*>", "", browser.page.read_text(encoding="utf-8"))
    browser.page.with_name("probe.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    host = browser.page.with_name("host.html")
    host.write_text(HOST.format(width=width), encoding="utf-8")
    done = browser.run("--dump-dom", *flags, page=host)
    match = re.search(r'data-result="([^"]*)"', done.stdout)
    assert match, done.stderr
    result: dict[str, Any] = json.loads(unquote(match[1]))
    return result


@pytest.mark.parametrize("width", [320, 380, 1280])
def test_typing_clicking_and_focus_without_sideways_scrolling(browser: Browser, width: int) -> None:
    result = probe(browser, width, "--window-size=1400,1000")
    assert result["width"] == width
    assert result["overflow"] == 0
    assert result["all"] == result["again"] == 96
    assert result["rematches"] == 24
    assert 0 < result["script"] < 24
    assert result["hash"] == "#q=script"
    assert result["unfocusable"] == 0
    assert result["slash"] == "search"
    assert result["escaped"] == ["", 96]
    assert result["bars"] == [True, True]
    assert result["points"] == [True] * 4
    assert result["images"] == 96


def test_dark_and_light(browser: Browser) -> None:
    assert probe(browser, 800, "--blink-settings=preferredColorScheme=1")["theme"] == "rgb(253, 252, 249)"
    assert probe(browser, 800, "--blink-settings=preferredColorScheme=0")["theme"] == "rgb(22, 22, 20)"


def test_a_screenshot_is_not_blank(browser: Browser) -> None:
    from PIL import Image

    picture = browser.page.with_name("page.png")
    browser.run(f"--screenshot={picture}", "--window-size=800,1200", "--hide-scrollbars")
    with Image.open(picture) as image:
        assert image.size == (800, 1200)
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
