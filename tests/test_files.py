"""Files are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pairclean.files import fingerprint, is_temporary, write_json, written_whole


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    with written_whole(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_is_being_written_is_told_by_its_name(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a.json"):
        assert [is_temporary(path.name) for path in tmp_path.iterdir()] == [True]
    assert not any(map(is_temporary, ["a.json", "a.json.1.tmp", ".a.json", ".a.tmp", ".a.b.tmp"]))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_old_file_stays_when_writing_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with written_whole(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_is_readable_and_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "ä", "x": [1, None]})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"name": "ä", "x": [1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_bytes())["name"] == "ä"


def test_a_fingerprint_follows_content_and_not_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len({fingerprint(x) for x in ([1], [2], ["1"], [[1]], None)}) == 5
    assert fingerprint("a", "b") != fingerprint("ab")
