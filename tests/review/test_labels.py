from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pairclean.review.labels import BELONGS, CANNOT_TELL, DOES_NOT, PARTLY, Label, Labels, cohens_kappa

BIG = 2**62 + 1  # not a float64


def give(labels: Labels, unit: tuple[int, int], answer: str | None, reviewer: str = "ann") -> None:
    labels.add([Label.now("p", unit, answer, reviewer)])


def test_labels_are_on_disk_and_read_again(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    give(labels, (BIG, -BIG), BELONGS)
    give(labels, (1, 2), DOES_NOT)
    again = Labels(tmp_path)
    assert again.answer((BIG, -BIG)) == BELONGS
    assert again.answer((1, 2)) == DOES_NOT
    assert again.answer((2, 1)) is None
    assert again.history("ann") == labels.history("ann")


def test_parts_of_another_process_are_taken_in_once(tmp_path: Path) -> None:
    ours, theirs = Labels(tmp_path), Labels(tmp_path)
    give(theirs, (1, 1), PARTLY, "bob")
    ours.refresh()
    ours.refresh()
    assert ours.by("bob", (1, 1)) == [PARTLY]
    assert ours.reviewers == {"bob": 1}


def test_an_answer_is_withdrawn_without_touching_its_part(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    give(labels, (1, 1), BELONGS)
    give(labels, (2, 2), DOES_NOT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert [label.unit for label in labels.withdraw("ann")] == [(2, 2)]
    for again in (labels, Labels(tmp_path)):
        assert again.answer((2, 2)) is None
        assert again.answer((1, 1)) == BELONGS
        assert len(again.history("ann")) == 1
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()


@pytest.mark.parametrize(
    ("answers", "together"),
    [
        ([BELONGS], BELONGS),
        ([BELONGS, BELONGS, DOES_NOT], BELONGS),
        ([BELONGS, PARTLY, DOES_NOT], PARTLY),
        ([BELONGS, DOES_NOT], CANNOT_TELL),
        ([CANNOT_TELL, DOES_NOT], DOES_NOT),
        ([CANNOT_TELL, CANNOT_TELL], CANNOT_TELL),
    ],
)
def test_reviewers_together_say_the_median(tmp_path: Path, answers: list[str], together: str) -> None:
    labels = Labels(tmp_path)
    for number, answer in enumerate(answers):
        give(labels, (1, 1), answer, f"reviewer {number}")
    assert labels.answer((1, 1)) == together


def test_a_reviewer_counts_by_the_last_answer_and_agrees_with_themselves_or_not(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    for unit, answer in (((1, 1), BELONGS), ((1, 1), DOES_NOT), ((2, 2), BELONGS), ((2, 2), BELONGS)):
        give(labels, unit, answer)
    assert labels.answer((1, 1)) == DOES_NOT
    (own,) = labels.agreement()
    assert own["reviewers"] == ["ann", "ann"]
    assert (own["pairs"], own["agree"]) == (2, 0.5)


def test_kappa_is_agreement_beyond_chance() -> None:
    both = (
        [(BELONGS, BELONGS)] * 20 + [(BELONGS, DOES_NOT)] * 5 + [(DOES_NOT, BELONGS)] * 10 + [(DOES_NOT, DOES_NOT)] * 15
    )
    assert cohens_kappa(both) == pytest.approx(0.4)  # the textbook's table
    assert cohens_kappa([(BELONGS, BELONGS)] * 3) is None


def test_a_kill_leaves_whole_labels_and_all_that_were_acknowledged(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from pairclean.review.labels import Label, Labels
labels = Labels(Path({str(tmp_path)!r}))
for number in range(100_000):
    labels.add([Label.now("p", (number, 0), "belongs", "ann")])
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(30)]
    process.kill()
    acknowledged += [int(line) for line in process.communicate()[0].splitlines() if line.strip()]
    found = Labels(tmp_path)
    assert all(found.answer((number, 0)) == BELONGS for number in acknowledged)
