"""The page's server: what it asks, keeps and refuses; and the page itself in a real browser."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairclean.review.labels import ANSWERS, BELONGS, CANNOT_TELL, DOES_NOT, PARTLY
from pairclean.review.page.session import AnsweredElsewhere, Session
from pairclean.review.reviewed import estimate, open_labels
from pairclean.review.sample import design
from pairclean.run import Run
from pairclean.run.results import open_rematches, save_rematches

from .chromium import CHROMIUM, Chromium, Tab

pytest.importorskip("starlette", reason="needs the extra review")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra review")
browser_only = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here (Debian, Ubuntu: apt-get install chromium)"
)

TOKEN = "token"
CLEAN = [[*np.linspace(0.01, 0.2, 30), *np.linspace(0.8, 0.99, 170)]]


@pytest.fixture
def run(made_run: Callable[..., Run]) -> Run:
    return made_run([{}], CLEAN)


def rematched(run: Run) -> Run:
    """Every pair gets the caption of the next but one."""
    found = open_rematches(run)
    n = len(found.partner)
    arrays = {name: np.array(value) for name, value in vars(found).items() if isinstance(value, np.ndarray)}
    save_rematches(run, type(found)(**{**vars(found), **arrays, "partner": (np.arange(n) + 2) % n}))
    return run


def answer(session: Session, *answers: str) -> int:
    """Answer the question at hand; returns its row."""
    question = session.state()["questions"][0]
    given = [answers[0]] * len(question["captions"]) if len(answers) == 1 else answers
    session.answer(question["row"], question["units"], question["times"], given)
    return int(question["row"])


@contextmanager
def served(session: Session) -> Iterator[str]:
    """The address of the page; the server runs in a thread."""
    from pairclean.review.page.app import application

    config = uvicorn.Config(application(session, TOKEN), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/{TOKEN}/"
    finally:
        server.should_exit = True
        thread.join()


# --- what is asked and kept -------------------------------------------------------------------------------------------


def test_an_answer_is_kept_and_the_next_question_is_another(run: Run) -> None:
    session = Session(run, design(run, 50), "ann")
    rows = [answer(session, DOES_NOT) for _ in range(20)]
    assert len(set(rows)) == 20
    state = session.state()
    assert state["answered"] == state["labelled"] == 20
    assert rows == design(run).drawn[:20]
    assert estimate(run).labels[DOES_NOT] == 20
    assert state["estimate"]["estimate"] == 1


def test_a_closed_review_goes_on_where_it_stopped(run: Run) -> None:
    first = Session(run, design(run, 50), "ann")
    rows = [answer(first, BELONGS) for _ in range(7)]
    upcoming = [question["row"] for question in first.state()["questions"]]
    again = Session(run, design(run), "ann")
    assert [question["row"] for question in again.state()["questions"]] == upcoming
    assert not set(rows) & set(upcoming)
    again.undo()
    assert again.state()["questions"][0]["row"] == rows[-1]


def test_a_question_that_was_answered_elsewhere_is_not_answered_twice(run: Run) -> None:
    one, other = (Session(run, design(run, 50), "ann") for _ in range(2))
    question = other.state()["questions"][0]
    answer(one, BELONGS)
    with pytest.raises(AnsweredElsewhere):
        other.answer(question["row"], question["units"], question["times"], [DOES_NOT])
    assert open_labels(run).history("ann") == one.labels.history("ann")


def test_what_is_no_answer_to_a_question_is_refused(run: Run) -> None:
    session = Session(run, design(run, 50), "ann")
    question = session.state()["questions"][0]
    row, units, times = question["row"], question["units"], question["times"]
    for bad in ((row, units, times, ["perhaps"]), (row, [["1", "2"]], times, [BELONGS]), (row, units, times, [])):
        with pytest.raises(ValueError, match="answer"):
            session.answer(*bad)
    assert session.labels.reviewers == {}


def test_both_captions_of_a_rematched_pair_are_asked_for_and_the_sides_are_random(run: Run) -> None:
    rematched(run)
    session = Session(run, design(run, 50), "ann")
    first = 0
    for _ in range(30):
        question = session.state()["questions"][0]
        if len(question["units"]) == 2:
            own = session.sample.unit(question["row"])
            first += tuple(map(int, question["units"][0])) == own
            said = [DOES_NOT if tuple(map(int, unit)) == own else BELONGS for unit in question["units"]]
            answer(session, *said)
        else:
            answer(session, DOES_NOT)
    assert 5 < first < 25
    assert estimate(run).rematched is not None
    assert len(session.labels.withdraw("ann")) in (1, 2)


def test_reviewers_share_the_work_and_some_pairs_and_see_a_few_again(run: Run) -> None:
    ann, bob = (Session(run, design(run, 50), name) for name in ("ann", "bob"))
    for number in range(120):
        answer(ann if number % 2 else bob, ANSWERS[number % 3])
    labels = open_labels(run)
    about = {tuple(one["reviewers"]): one["pairs"] for one in labels.agreement()}  # type: ignore[arg-type]
    assert 4 <= about["ann", "bob"] <= 20
    assert 1 <= about["ann", "ann"] <= 3
    assert estimate(run).mismatched is not None


def test_a_pair_that_is_shown_again_is_fetched_ahead_and_further_pairs_are_drawn_ahead(run: Run) -> None:
    session = Session(run, design(run, 50), "ann")
    ahead = list[int]()
    for _ in range(60):
        session.prepare()
        drawn = len(session.sample.drawn)
        questions = session.state()["questions"]
        assert len(session.sample.drawn) == drawn
        assert not ahead or questions[0]["row"] in ahead
        ahead = [question["row"] for question in questions[1:]]
        answer(session, BELONGS)
    (about,) = session.labels.agreement()
    assert about["pairs"] == 2


def test_the_verdict_is_told_after_the_answer_only(run: Run) -> None:
    session = Session(run, design(run, 50), "ann")
    assert session.said(session.state()["questions"][0]["row"]) is None
    row = answer(session, BELONGS)
    verdict = "noisy" if row < 30 else "clean"
    assert (
        session.said(row) == f"pairclean says {verdict}: the caption belongs with a probability of {CLEAN[0][row]:.0%}."
    )
    assert "clean" not in json.dumps(session.state())


def test_all_pairs_can_be_labelled(made_run: Callable[..., Run]) -> None:
    run = made_run([{}], [[0.9] * 15])
    session = Session(run, design(run, 50), "ann")
    for _ in range(15):
        answer(session, BELONGS)
    assert session.state()["questions"] == []


# --- over HTTP --------------------------------------------------------------------------------------------------------


def get(address: str, **headers: str) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_without_the_token_or_by_another_name_there_is_nothing(run: Run) -> None:
    with served(Session(run, design(run, 50), "ann")) as address:
        status, page, headers = get(address)
        assert status == 200
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert b"http" not in page.replace(b"http-equiv", b"")
        assert get(address.replace(TOKEN, "other"))[0] == 404
        assert get(address.replace(TOKEN + "/", ""))[0] == 404
        assert get(address, Host="evil.example")[0] == 400


def test_pictures_are_jpegs_or_a_reason(run: Run) -> None:
    with served(Session(run, design(run, 50), "ann")) as address:
        status, data, headers = get(address + "picture/3")
        assert (status, headers["Content-Type"], data[:2]) == (200, "image/jpeg", b"\xff\xd8")
        assert get(address + "picture/100000")[0] == 404
    for file in Path(run.manifest["source"]).glob("*"):
        file.unlink()
    with served(Session(run, design(run), "ann")) as address:
        status, reason, _ = get(address + "picture/3")
        assert status == 404
        assert reason


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path / "profile") as browser:
        yield browser


def labelled(tab: Tab, count: int) -> None:
    tab.wait(f"typeof busy === 'boolean' && !busy && document.getElementById('progress').value === {count}")


@browser_only
def test_labelling_undoing_closing_and_reopening(run: Run, chromium: Chromium) -> None:
    session = Session(run, design(run, 50), "ann")
    with served(session) as address:
        tab = chromium.tab(address)
        labelled(tab, 0)
        assert tab.run("document.querySelector('#figure canvas').width") == 8
        for number, key in enumerate("1234", 1):
            tab.press(key)
            labelled(tab, number)
        given = [label.answer for label in open_labels(run).history("ann")]
        assert given == [BELONGS, PARTLY, DOES_NOT, CANNOT_TELL]
        assert "Mismatched: " in tab.run("document.getElementById('rate').textContent")
        tab.press("v")
        tab.wait("document.getElementById('note').textContent.startsWith('pairclean says')")
        row = tab.run("document.body.dataset.row")
        tab.press("Backspace")
        labelled(tab, 3)
        assert tab.run("document.body.dataset.row") != row
        again = chromium.tab(address)  # the first one is left as a closed one would be
        labelled(again, 3)
        again.run("document.querySelector('button.does_not').click()")
        labelled(again, 4)
        assert open_labels(run).history("ann")[-1].answer == DOES_NOT
        tab.press("1")  # in the tab that shows what was answered meanwhile
        labelled(tab, 4)
        assert [label.answer for label in open_labels(run).history("ann")] == [BELONGS, PARTLY, DOES_NOT, DOES_NOT]
        assert again.complaints() == []


@browser_only
def test_two_captions_are_answered_one_after_the_other(run: Run, chromium: Chromium) -> None:
    with served(Session(rematched(run), design(run, 50), "ann")) as address:
        tab = chromium.tab(address)
        labelled(tab, 0)
        assert tab.run("document.querySelectorAll('.caption').length") == 2
        tab.press("3")
        tab.wait("document.querySelectorAll('.caption')[1].classList.contains('now')")
        tab.press("Backspace")
        tab.wait("document.querySelectorAll('.caption')[0].classList.contains('now')")
        tab.press("3")
        tab.press("1")
        labelled(tab, 1)
        assert [label.answer for label in open_labels(run).history("ann")] == [DOES_NOT, BELONGS]


@browser_only
def test_the_results_and_a_missing_picture_on_a_phone(run: Run, chromium: Chromium) -> None:
    session = Session(run, design(run, 50), "ann")
    for _ in range(20):
        answer(session, BELONGS)
    for file in Path(run.manifest["source"]).glob("*"):
        file.unlink()
    with served(Session(run, design(run), "ann")) as address:
        tab = chromium.tab(address, width=360, height=640, dark=True)
        labelled(tab, 20)
        assert tab.run("document.getElementById('figure').textContent").startswith("This picture cannot be shown")
        assert tab.run("document.documentElement.scrollWidth <= 360")
        tab.press("r")
        tab.wait("document.getElementById('results').open")
        assert tab.run("document.querySelectorAll('#results table').length") == 4
        assert tab.run("[...document.querySelectorAll('#curve polyline')].every((line) => line.points.length > 5)")
        assert tab.run("document.documentElement.scrollWidth <= 360")


@browser_only
def test_every_control_has_a_name_and_is_reached_by_the_keyboard(run: Run, chromium: Chromium) -> None:
    with served(Session(run, design(run, 50), "ann")) as address:
        tab = chromium.tab(address)
        labelled(tab, 0)
        tab.call("Accessibility.enable")
        nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
        buttons = [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "button"]
        assert len(buttons) == 7
        assert all(buttons)
        assert any(node.get("role", {}).get("value") == "progressbar" for node in nodes)
        spoken = tab.run("document.getElementById('spoken').textContent")
        assert spoken.startswith("Caption: a ")
        tab.press("Tab")
        assert tab.run("document.activeElement.dataset.answer") == "belongs"
