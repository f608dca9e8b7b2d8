from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pairclean.pairs import Columns, Roles, UserError
from pairclean.sources.roles import caption_kind, detect_roles, id_kind, image_kind, marked_images

TEXT, BYTES, INT = pa.string(), pa.binary(), pa.int64()
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def roles(types, marked=(), **named):
    return detect_roles(types, path="SOURCE", marked=marked, columns=Columns(**named))


def refusal(types, **options):
    with pytest.raises(UserError) as caught:
        roles(types, **options)
    return str(caught.value)


def test_kinds():
    assert [image_kind(kind) for kind in (BYTES, pa.large_binary(), STRUCT, TEXT, INT)] == [
        "bytes",
        "bytes",
        "struct",
        "path",
        None,
    ]
    assert image_kind(pa.struct([("bytes", pa.string())])) is None
    assert image_kind(pa.list_(BYTES)) == image_kind(pa.list_(STRUCT)) == "list"
    assert image_kind(pa.list_(pa.list_(BYTES))) is None
    lists = (
        pa.list_(TEXT),
        pa.large_list(pa.large_string()),
        pa.list_(TEXT, 5),
        pa.list_(pa.dictionary(pa.int8(), TEXT)),
    )
    assert [caption_kind(kind) for kind in lists] == ["list"] * 4
    assert [caption_kind(kind) for kind in (TEXT, pa.dictionary(pa.int8(), TEXT), BYTES)] == ["text"] * 3
    assert [caption_kind(kind) for kind in (INT, pa.list_(BYTES), pa.list_(INT), STRUCT)] == [None] * 4
    assert [id_kind(kind) for kind in (TEXT, INT, pa.uint8(), pa.float64())] == ["text", "integer", "integer", None]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ({"url": TEXT, "key": TEXT, "caption": TEXT, "jpg": BYTES, "exif": TEXT}, Roles("jpg", "caption", "key")),
        ({"image": STRUCT, "text": TEXT, "id": INT}, Roles("image", "text", "id")),
        ({"photo": STRUCT, "TEXT": pa.list_(TEXT), "split": TEXT}, Roles("photo", "TEXT", None)),
        ({"blob": BYTES, "title": TEXT}, Roles("blob", "title", None)),  # the only ones
        ({"webp": BYTES, "thumbnail": BYTES, "alt_text": TEXT, "title": TEXT}, Roles("webp", "alt_text", None)),
        ({"jpg": BYTES, "txt": TEXT, "__key__": TEXT, "__url__": TEXT}, Roles("jpg", "txt", "__key__")),
        ({"image": BYTES, "title": TEXT, "id": pa.float64()}, Roles("image", "title", None)),  # no id to speak of
        ({"uid": TEXT, "key": TEXT, "id": TEXT, "jpg": BYTES, "caption": TEXT}, Roles("jpg", "caption", "key")),
        ({"file_name": TEXT, "label": TEXT}, Roles("file_name", "label", None)),
        # What an earlier cleaning added is not a candidate.
        ({"jpg": BYTES, "words": TEXT, "pairclean_original_caption": TEXT}, Roles("jpg", "words", None)),
    ],
)
def test_detected(types, expected):
    assert roles(types) == expected


def test_marked_image_goes_first():
    types = {"image": BYTES, "photo": BYTES, "caption": TEXT}
    assert roles(types).image == "image"
    assert roles(types, marked={"photo"}).image == "photo"
    assert roles({"where": TEXT, "caption": TEXT}, marked={"where"}).image == "where"


def test_paths_go_first_with_an_image_root():
    types = {"image_path": TEXT, "embedding": BYTES, "caption": TEXT}
    assert roles(types).image == "embedding"
    assert roles(types, image_root="/root") == Roles("image_path", "caption", None, "/root")


def test_named_columns():
    types = {"a": BYTES, "b": BYTES, "caption": TEXT, "text": TEXT, "n": INT}
    assert roles(types, image="b", caption="text", id="n") == Roles("b", "text", "n")
    # Naming one role takes its column out of the others.
    assert roles({"text": TEXT, "caption": TEXT, "jpg": BYTES}, id="text").caption == "caption"
    assert roles({"id": TEXT, "jpg": BYTES}, caption="id") == Roles("jpg", "id", None)
    assert roles({"key": TEXT, "jpg": BYTES, "caption": TEXT}, id="none").id is None


def test_ambiguity_names_the_choices_and_the_flag():
    message = refusal({"jpg": BYTES, "caption": TEXT, "text": TEXT})
    assert "'caption', 'text'" in message
    assert "--caption-column" in message
    message = refusal({"jpg": BYTES, "title": TEXT, "summary": TEXT})
    assert "'title', 'summary'" in message
    message = refusal({"jpg": BYTES, "png": BYTES, "caption": TEXT})
    assert "'jpg', 'png'" in message
    assert "--image-column" in message
    assert "'left', 'right'" in refusal({"left": STRUCT, "right": STRUCT, "caption": TEXT})


@pytest.mark.parametrize("flag", ["image", "caption", "id"])
def test_a_missing_column_is_answered_with_those_there_are(flag):
    message = refusal({"jpg": BYTES, "caption": TEXT}, **{flag: "nope"})
    assert message == "SOURCE has no column 'nope'; its columns are: jpg, caption"


def test_a_named_column_of_the_wrong_type():
    types = {"jpg": BYTES, "caption": TEXT, "width": INT, "ratio": pa.float64()}
    for role, column in (("image", "width"), ("caption", "width"), ("caption", "jpg"), ("id", "ratio")):
        message = refusal(types, **{role: column})
        assert f"column {column!r} of SOURCE is {types[column]} and cannot be the {role}" in message
        assert f"--{role}-column" in message


def test_nothing_that_fits():
    assert "--image-column" in refusal({"caption": TEXT, "width": INT})
    assert "--caption-column" in refusal({"jpg": BYTES, "url": TEXT, "status": TEXT, "label": INT})
    assert "img2dataset" in refusal({"URL": TEXT, "TEXT": TEXT})


def test_marked_images_survive_any_metadata():
    def schema(document):
        return pa.schema([("a", STRUCT)], metadata={"huggingface": document})

    features = {"a": {"_type": "Image"}, "b": {"_type": "Value", "dtype": "string"}, "c": [{"_type": "Image"}]}
    assert marked_images(schema(json.dumps({"info": {"features": features}}))) == {"a"}
    for document in ("", "{", "[]", "null", "{}", '{"info": null}', '{"info": {"features": null}}'):
        assert marked_images(schema(document)) == set()
    assert marked_images(pa.schema([("a", STRUCT)])) == set()
