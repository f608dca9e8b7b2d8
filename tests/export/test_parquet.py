from __future__ import annotations

import io
import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.export import Tables, kept_pairs
from pairclean.pairs import VERDICT_SCHEMA, UserError
from pairclean.sources import open_source

ADDED = [
    "pairclean_pair_id",
    "pairclean_verdict",
    "pairclean_clean_probability",
    "pairclean_original_caption",
    "pairclean_caption_pair_id",
]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PNGS = [png(value) for value in range(6)]


def judged(source, shard, verdict):
    """A verdict table: `verdict(row, caption_index)` names each pair's; a rematched pair gets the caption `new ...`."""
    records = []
    for row in source.rows(shard, images=False):
        for index in range(len(row.captions)):
            pair_id, word = row.pair_id(index), verdict(row.row, index)
            record = {"pair_id": pair_id, "shard": shard.name, "row": row.row, "caption_index": index, "verdict": word}
            if word == "rematched":
                record |= {"rematch_pair_id": f"owner of {pair_id}", "rematch_caption": f"new {pair_id}"}
            if word not in ("unjudged", "unreadable"):
                record["clean_probability"] = 0.25 if word == "rematched" else 0.75
            records.append(record)
    return pa.Table.from_pylist(records, schema=VERDICT_SCHEMA)


def export_shard(source, shard, verdicts, out):
    """Write one shard; the number of pairs written."""
    kept = kept_pairs(verdicts)
    Tables(source).write(shard, kept, out)
    return len(kept)


def export(source, verdict, out):
    """Export every shard; returns the number of pairs written and the files."""
    out.mkdir(exist_ok=True)
    kept = sum(export_shard(source, shard, judged(source, shard, verdict), out) for shard in source.shards)
    files = [out / f"{shard.name}.parquet" for shard in source.shards]
    assert sorted(out.iterdir()) == files  # and no temporary file
    return kept, files


def five(row, index):
    return ["clean", "noisy", "rematched", "unjudged", "unreadable"][row % 5]


def write(path, columns, schema=None, **options):
    pq.write_table(pa.table(columns, schema=schema), path, **options)
    return path


def test_img2dataset(tmp_path):
    path = write(
        tmp_path / "00000.parquet",
        {
            "url": [f"http://{row}" for row in range(6)],
            "key": [f"k{row}" for row in range(6)],
            "caption": [f"caption {row}" for row in range(6)],
            "jpg": PNGS,
            "width": pa.array(range(6), pa.int32()),
            "tags": [["a"], None, [], ["b", "c"], None, ["d"]],
        },
    )
    before = pq.read_table(path)
    kept, [file] = export(open_source(path), five, tmp_path / "cleaned")
    after = pq.read_table(file)
    assert kept == after.num_rows == 3
    assert after.column_names == before.column_names + ADDED
    assert after.schema.types[:6] == before.schema.types
    assert after.schema.types[6:] == [pa.string(), pa.string(), pa.float32(), pa.string(), pa.string()]
    unchanged = ["url", "key", "jpg", "width", "tags"]
    assert after.select(unchanged).equals(before.take([0, 2, 5]).select(unchanged))
    assert after.select(["caption", *ADDED]).to_pylist() == [
        dict(zip(["caption", *ADDED], values, strict=True))
        for values in (
            ("caption 0", "k0", "clean", 0.75, None, "k0"),
            ("new k2", "k2", "rematched", 0.25, "caption 2", "owner of k2"),
            ("caption 5", "k5", "clean", 0.75, None, "k5"),
        )
    ]


def test_lists_of_captions(tmp_path):
    captions = [["a", "b", "c"], ["d"], None, [], ["e", None, "f"]]
    words = {(0, 0): "clean", (0, 2): "rematched", (4, 1): "clean", (4, 2): "clean"}
    path = write(tmp_path / "s.parquet", {"jpg": PNGS[:5], "captions": captions, "n": list(range(5))})
    verdict = lambda row, index: words.get((row, index), "noisy")  # noqa: E731
    kept, [file] = export(open_source(path), verdict, tmp_path / "cleaned")
    assert kept == 4
    table = pq.read_table(file)
    assert table.schema.field("captions").type == pa.list_(pa.string())
    assert table.to_pylist() == [
        {
            "jpg": PNGS[0],
            "captions": ["a", "new s:0:2"],
            "n": 0,
            "pairclean_pair_id": ["s:0:0", "s:0:2"],
            "pairclean_verdict": ["clean", "rematched"],
            "pairclean_clean_probability": [0.75, 0.25],
            "pairclean_original_caption": [None, "c"],
            "pairclean_caption_pair_id": ["s:0:0", "owner of s:0:2"],
        },
        {
            "jpg": PNGS[4],
            "captions": [None, "f"],
            "n": 4,
            "pairclean_pair_id": ["s:4:1", "s:4:2"],
            "pairclean_verdict": ["clean", "clean"],
            "pairclean_clean_probability": [0.75, 0.75],
            "pairclean_original_caption": [None, None],
            "pairclean_caption_pair_id": ["s:4:1", "s:4:2"],
        },
    ]


def test_a_rematched_pair_without_a_caption_gets_one(tmp_path):
    path = write(tmp_path / "s.parquet", {"jpg": PNGS[:3], "captions": [None, [], ["a"]]})
    kept, [file] = export(open_source(path), lambda row, index: "rematched", tmp_path / "cleaned")
    assert kept == 3
    table = pq.read_table(file)
    assert table["captions"].to_pylist() == [["new s:0:0"], ["new s:1:0"], ["new s:2:0"]]
    assert table["pairclean_original_caption"].to_pylist() == [[None], [None], ["a"]]


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (pa.string(), pa.string()),
        (pa.large_string(), pa.large_string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.string())),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())),  # room for new captions
    ],
)
def test_types_of_captions(tmp_path, kind, written):
    captions = pa.array([f"c{row % 100}" for row in range(400)]).cast(kind)
    path = write(tmp_path / "s.parquet", {"jpg": [b"x"] * 400, "caption": captions})
    kept, [file] = export(open_source(path), lambda row, _: "rematched" if row % 2 else "clean", tmp_path / "cleaned")
    table = pq.read_table(file)
    assert kept == 400
    assert table.schema.field("caption").type == written
    expected = [f"new s:{row}" if row % 2 else f"c{row % 100}" for row in range(400)]
    assert table["caption"].cast(pa.string()).to_pylist() == expected


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (pa.large_list(pa.large_string()), pa.large_list(pa.large_string())),
        (pa.list_(pa.string(), 2), pa.list_(pa.string())),
        (pa.list_(pa.dictionary(pa.int32(), pa.string())), pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    ],
)
def test_types_of_caption_lists(tmp_path, kind, written):
    captions = pa.array([["a", "b"], None, ["c", "d"]], kind)
    path = write(tmp_path / "s.parquet", {"jpg": PNGS[:3], "captions": captions})
    words = {(0, 0): "rematched", (2, 0): "clean", (2, 1): "clean"}
    _, [file] = export(open_source(path), lambda *at: words.get(at, "noisy"), tmp_path / "cleaned")
    table = pq.read_table(file)
    assert table.schema.field("captions").type == written
    assert table["captions"].to_pylist() == [["new s:0:0"], ["c", "d"]]


@pytest.mark.skipif(not hasattr(pa, "string_view"), reason="this pyarrow has no views")
def test_views_become_plain_types(tmp_path):
    columns = {
        "jpg": pa.array(PNGS[:3], pa.binary_view()),
        "caption": pa.array(["a", "b", "c"], pa.string_view()),
        "more": pa.array([["x"], None, ["y", "z"]], pa.list_view(pa.string())),
    }
    path = write(tmp_path / "s.parquet", columns)
    words = ["clean", "noisy", "rematched"]
    _, [file] = export(open_source(path), lambda row, _: words[row], tmp_path / "cleaned")
    table = pq.read_table(file).select(["jpg", "caption", "more"])
    assert table.schema.types == [pa.large_binary(), pa.large_string(), pa.large_list(pa.string())]
    assert table.to_pydict() == {"jpg": [PNGS[0], PNGS[2]], "caption": ["a", "new s:2"], "more": [["x"], ["y", "z"]]}


def test_a_new_caption_has_the_encoding_of_the_others(tmp_path, export):
    texts = ["赤いドレスの写真", "黒い革の靴と帽子", "白いシャツを着た人", "青い空と海"]
    captions = pa.array([text.encode("shift_jis") for text in texts], pa.binary())
    pq.write_table(pa.table({"jpg": [b"\xff\xd8\xff"] * 4, "caption": captions}), tmp_path / "a.parquet")
    export(open_source(tmp_path), ["rematched", *["clean"] * 3], tmp_path / "out")
    written = pq.read_table(tmp_path / "out" / "a.parquet")
    assert written["pairclean_original_caption"].to_pylist() == [texts[0], None, None, None]
    assert written["caption"].to_pylist() == [text.encode("shift_jis") for text in (texts[1], *texts[1:])]
    again = open_source(tmp_path / "out")
    assert [row.captions[0] for row in again.rows(again.shards[0])] == [texts[1], *texts[1:]]


def test_captions_that_are_not_utf8_stay_as_they_are(tmp_path):
    captions = pa.array([b"caf\xe9", b"ok"]).view(pa.string())
    path = write(tmp_path / "s.parquet", {"jpg": PNGS[:2], "caption": captions})
    _, [file] = export(open_source(path), lambda row, _: "rematched" if row else "clean", tmp_path / "cleaned")
    assert pq.read_table(file)["caption"].cast(pa.binary()).to_pylist() == [b"caf\xe9", b"new s:1"]


def test_nothing_kept_is_a_file_without_rows(tmp_path):
    path = write(tmp_path / "s.parquet", {"jpg": PNGS, "caption": ["x"] * 6})
    kept, [file] = export(open_source(path), lambda *_: "unjudged", tmp_path / "cleaned")
    table = pq.read_table(file)
    assert (kept, table.num_rows, table.column_names) == (0, 0, ["jpg", "caption", *ADDED])


def test_pairs_without_a_verdict_are_left_out(tmp_path):
    path = write(tmp_path / "s.parquet", {"jpg": PNGS, "caption": ["x"] * 6})
    source = open_source(path)
    verdicts = judged(source, source.shards[0], lambda *_: "clean").slice(0, 2)
    (tmp_path / "cleaned").mkdir()
    assert export_shard(source, source.shards[0], verdicts, tmp_path / "cleaned") == 2
    assert pq.read_table(tmp_path / "cleaned")["pairclean_pair_id"].to_pylist() == ["s:0", "s:1"]


def test_cleaning_what_was_cleaned(tmp_path):
    path = write(tmp_path / "s.parquet", {"jpg": PNGS, "caption": [f"c{row}" for row in range(6)]})
    _, [first] = export(open_source(path), five, tmp_path / "once")
    again = open_source(first)
    assert again.roles.caption == "caption"
    kept, [second] = export(again, lambda row, _: "clean" if row else "noisy", tmp_path / "twice")
    table = pq.read_table(second)
    assert kept == 2
    assert table.column_names == ["jpg", "caption", *ADDED]
    assert table["pairclean_verdict"].to_pylist() == ["clean", "clean"]
    assert table["caption"].to_pylist() == ["new s:2", "c5"]


def test_schema_metadata_and_nullability_stay(tmp_path):
    schema = pa.schema(
        [pa.field("jpg", pa.binary(), nullable=False, metadata={"unit": "bytes"}), pa.field("caption", pa.string())],
        metadata={"who": "me"},
    )
    path = write(tmp_path / "s.parquet", {"jpg": PNGS, "caption": ["x"] * 6}, schema)
    _, [file] = export(open_source(path), five, tmp_path / "cleaned")
    after = pq.read_schema(file)
    assert after.metadata == {b"who": b"me"}
    assert after.field("jpg").equals(schema.field("jpg"), check_metadata=True)


def test_pandas_index_comes_back(tmp_path):
    frame = pd.DataFrame({"jpg": PNGS, "caption": ["x"] * 6}, index=pd.Index(list("abcdef"), name="letter"))
    frame.to_parquet(tmp_path / "s.parquet")
    _, [file] = export(open_source(tmp_path / "s.parquet"), five, tmp_path / "cleaned")
    assert pd.read_parquet(file).index.tolist() == ["a", "c", "f"]
    frame.reset_index(drop=True).to_parquet(tmp_path / "s.parquet")  # its index is a range of six
    _, [file] = export(open_source(tmp_path / "s.parquet"), five, tmp_path / "cleaned")
    assert pd.read_parquet(file).index.tolist() == [0, 1, 2]


def test_row_groups_and_memory_are_bounded(tmp_path, monkeypatch):
    images = [os.urandom(20_000) for _ in range(3000)]  # 60 MB in one row group
    path = tmp_path / "s.parquet"
    write(path, {"jpg": images, "caption": ["x"] * 3000}, use_dictionary=False, write_batch_size=64)
    del images
    monkeypatch.setattr("pairclean.export.parquet.GROUP_BYTES", 4 << 20)
    source = open_source(path)
    shard = source.shards[0]
    verdicts = judged(source, shard, lambda *_: "clean")
    peak, before = [0], pa.total_allocated_bytes()

    class Writer(pq.ParquetWriter):
        def write_table(self, *args, **options):
            super().write_table(*args, **options)
            peak.append(pa.total_allocated_bytes() - before)

    monkeypatch.setattr("pairclean.export.parquet.pq.ParquetWriter", Writer)
    (tmp_path / "cleaned").mkdir()
    assert export_shard(source, shard, verdicts, tmp_path / "cleaned") == 3000
    metadata = pq.read_metadata(tmp_path / "cleaned" / "s.parquet")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(sizes) == 3000
    assert max(sizes) <= (4 << 20) // 20_000 + 64
    assert max(peak) < 20e6
    assert pq.read_table(tmp_path / "cleaned" / "s.parquet", columns=["jpg"]).equals(
        pq.read_table(path, columns=["jpg"])
    )


def test_a_shard_that_changed_is_refused_and_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "s.parquet", {"jpg": PNGS, "caption": ["x"] * 6})
    source = open_source(path)
    shard = source.shards[0]
    _, [file] = export(source, lambda *_: "clean", tmp_path / "cleaned")
    old = file.read_bytes()
    verdicts = judged(source, shard, lambda *_: "clean")
    for captions in (["x"] * 5, None):
        columns = {"jpg": PNGS[:5], "caption": captions} if captions else {"jpg": PNGS, "caption": [["x"]] * 6}
        write(path, columns)
        doubled = verdicts if captions else verdicts.set_column(3, "caption_index", pa.array([1] * 6, pa.int32()))
        with pytest.raises(UserError, match="has changed since"):
            export_shard(source, shard, doubled, tmp_path / "cleaned")
        assert list((tmp_path / "cleaned").iterdir()) == [file]
        assert file.read_bytes() == old
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        export_shard(source, shard, verdicts, tmp_path / "cleaned")


def test_an_output_that_cannot_be_written(tmp_path):
    path = write(tmp_path / "s.parquet", {"jpg": PNGS, "caption": ["x"] * 6})
    source = open_source(path)
    verdicts = judged(source, source.shards[0], lambda *_: "clean")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_shard(source, source.shards[0], verdicts, tmp_path / "file")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "s.parquet", {"jpg": PNGS, "caption": ["x"] * 6})
    source = open_source(path)
    verdicts = judged(source, source.shards[0], lambda *_: "clean")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pairclean.files.os.fsync", full)
    (tmp_path / "cleaned").mkdir()
    with pytest.raises(UserError, match=r"s\.parquet cannot be written: No space left on device"):
        export_shard(source, source.shards[0], verdicts, tmp_path / "cleaned")
    assert list((tmp_path / "cleaned").iterdir()) == []


def huggingface(folder, captions, feature):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "caption": feature, "n": datasets.Value("int32")})
    for shard in range(2):
        pictures = [Image.open(io.BytesIO(PNGS[3 * shard + row])) for row in range(3)]
        columns = {"image": pictures, "caption": captions, "n": [3 * shard + row for row in range(3)]}
        data = datasets.Dataset.from_dict(columns, features=features)
        data.to_parquet(folder / f"train-0000{shard}-of-00002.parquet")
    return open_source(folder)


def load(files, cache):
    import datasets

    return datasets.load_dataset(
        "parquet", data_files=[str(file) for file in files], cache_dir=str(cache), split="train"
    )


def test_huggingface_loads_again(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "in").mkdir()
    source = huggingface(tmp_path / "in", ["a", "b", "c"], datasets.Value("string"))
    kept, files = export(source, lambda row, _: ["clean", "noisy", "rematched"][row], tmp_path / "cleaned")
    data = load(files, tmp_path / "cache")
    assert kept == len(data) == 4
    assert data.features["image"] == datasets.Image()
    assert data.features["pairclean_clean_probability"] == datasets.Value("float32")
    assert data.features["pairclean_pair_id"] == datasets.Value("string")
    assert [row["image"].getpixel((0, 0))[0] for row in data] == [0, 2, 3, 5]
    assert data["n"][:] == [0, 2, 3, 5]
    second = "train-00001-of-00002"
    assert data["caption"][:] == ["a", "new train-00000-of-00002:2", "a", f"new {second}:2"]
    assert data["pairclean_original_caption"][:] == [None, "c", None, "c"]
    assert data["pairclean_caption_pair_id"][2:] == [f"{second}:0", f"owner of {second}:2"]
    frame = pd.concat(map(pd.read_parquet, files))
    assert [Image.open(io.BytesIO(image["bytes"])).getpixel((0, 0))[0] for image in frame["image"]] == [0, 2, 3, 5]
    assert frame["pairclean_verdict"].tolist() == ["clean", "rematched"] * 2
    document = json.loads(pq.read_schema(files[0]).metadata[b"huggingface"])
    assert "fingerprint" not in document
    assert list(document["info"]["features"]) == ["image", "caption", "n", *ADDED]


@pytest.mark.parametrize("length", [-1, 2])
def test_huggingface_lists_load_again(tmp_path, length):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "in").mkdir()
    feature = datasets.Sequence(datasets.Value("string"), length=length)
    source = huggingface(tmp_path / "in", [["a", "b"], ["c", "d"], ["e", "f"]], feature)
    # The first shard keeps a part, the second nothing: both load together.
    words = {
        "train-00000-of-00002:1:0": "rematched",
        "train-00000-of-00002:2:0": "clean",
        "train-00000-of-00002:2:1": "clean",
    }
    (tmp_path / "cleaned").mkdir()
    files = []
    for shard in source.shards:
        verdict = lambda row, index, name=shard.name: words.get(f"{name}:{row}:{index}", "noisy")  # noqa: E731
        export_shard(source, shard, judged(source, shard, verdict), tmp_path / "cleaned")
        files.append(tmp_path / "cleaned" / f"{shard.name}.parquet")
    data = load(files, tmp_path / "cache")
    assert data.features["image"] == datasets.Image()
    assert data["caption"][:] == [["new train-00000-of-00002:1:0"], ["e", "f"]]
    assert data["pairclean_clean_probability"][:] == [[0.25], [0.75, 0.75]]
    assert data["pairclean_original_caption"][:] == [["c"], [None, None]]
    assert [row["image"].getpixel((0, 0))[0] for row in data] == [1, 2]


def test_binary_images_load_after_a_cast(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = write(tmp_path / "00000.parquet", {"key": list("abcdef"), "caption": list("uvwxyz"), "jpg": PNGS})
    _, files = export(open_source(path), five, tmp_path / "cleaned")
    data = load(files, tmp_path / "cache").cast_column("jpg", datasets.Image())
    assert [row["jpg"].getpixel((0, 0))[0] for row in data] == [0, 2, 5]
    assert data["pairclean_pair_id"][:] == ["a", "c", "f"]


def test_image_paths_stay(tmp_path):
    (tmp_path / "a.png").write_bytes(PNGS[0])
    path = write(tmp_path / "t.parquet", {"file_name": ["a.png", "b.png"], "text": ["x", "y"]})
    _, [file] = export(open_source(path), lambda *_: "clean", tmp_path / "cleaned")
    assert pq.read_table(file)["file_name"].to_pylist() == ["a.png", "b.png"]


def test_flickr8k(shared, tmp_path):
    source = open_source(shared / "data" / "flickr8k")
    random = np.random.default_rng(0)
    drawn = iter(random.choice(["clean", "noisy", "rematched"], 5000))
    kept, files = export(source, lambda *_: str(next(drawn)), tmp_path / "cleaned")
    after = pa.concat_tables([pq.read_table(file, columns=["caption", *ADDED]) for file in files])
    counts = [pc.list_value_length(column.combine_chunks()).to_pylist() for column in after.columns]
    assert all(count == counts[0] for count in counts)
    assert min(counts[0]) >= 1
    random = np.random.default_rng(0)
    words = random.choice(["clean", "noisy", "rematched"], 5000)
    assert kept == (words != "noisy").sum() == len(after["caption"].combine_chunks().flatten())
    originals = [
        caption for shard in source.shards for row in source.rows(shard, images=False) for caption in row.captions
    ]
    now = after["caption"].combine_chunks().flatten().to_pylist()
    were = after["pairclean_original_caption"].combine_chunks().flatten().to_pylist()
    expected = [caption for caption, word in zip(originals, words, strict=True) if word != "noisy"]
    assert [new if old is None else old for new, old in zip(now, were, strict=True)] == expected
    data = load(files, tmp_path / "cache")
    assert len(data) == len(after)
    assert data[0]["image"].size[0] > 100
