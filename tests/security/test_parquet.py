"""Parquet files of strangers: what inflates is refused by its footer, and a path in a row is a label and no path."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from config.presets import compose, write_params
from images.sources.preparation import open_source
from stages import prepare_data
from tests.conftest import ROOT
from tests.security.bombs import encoded, picture
from tests.security.children import run

ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, images, *, labels=None, mask=None, **options):
    """A shard as Hugging Face writes it. images: (bytes, path) a row."""
    columns = {"image": pa.array([None if i is None else {"bytes": i[0], "path": i[1]} for i in images], ENCODED)}
    columns["label"] = pa.array([0] * len(images) if labels is None else labels)
    if mask is not None:
        columns["mask"] = pa.array([{"bytes": mask, "path": "m.png"}] * len(images), ENCODED)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def open_(root):
    return open_source(root, image_column="image", label_column="label")


@pytest.mark.parametrize(("column", "compression"), [("image", "zstd"), ("mask", "gzip")])
def test_source__a_column_that_inflates_is_refused_before_it_is_read(tmp_path, column, compression):
    bomb, small = bytes(70_000_000), encoded(picture(), "PNG")
    image, mask = (bomb, small) if column == "image" else (small, bomb)
    write(tmp_path / "train-0.parquet", [(image, "a.png")], mask=mask, compression=compression, use_dictionary=False)
    with pytest.raises(
        ValueError, match=rf"train-0.parquet: {column}.bytes of row group 0 inflates from \d+ to 7000"
    ) as error:
        open_(tmp_path)
    assert "\n" not in str(error.value)


def test_source__more_rows_than_bytes_are_no_images(tmp_path):
    rows = 3_000_000
    columns = {"image": pa.nulls(rows, ENCODED), "label": pa.array(np.zeros(rows, np.int64))}
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet", compression="zstd")
    with pytest.raises(ValueError, match=r"train-0.parquet: 3000000 rows in \d+ bytes"):
        open_(tmp_path)


def test_source__a_value_that_a_dictionary_holds_once_is_not_held_for_every_row_at_a_time(tmp_path):
    value = np.random.default_rng(0).bytes(2**23)
    rows = [(value, f"{n}.png") for n in range(64)]
    write(tmp_path / "train-0.parquet", rows, dictionary_pagesize_limit=2**30, data_page_size=2**30)
    assert (tmp_path / "train-0.parquet").stat().st_size < 2**24
    found = run(
        """
from images.sources.preparation import open_source
source = open_source(sys.argv[1], image_column="image", label_column="label")
measured("read", lambda: sum(len(source.read(item).image) for item in source.items[:20]))
""",
        tmp_path,
    )["read"]
    assert found.said == str(20 * 2**23)
    assert found.mib < 600, found


HOSTILE = [
    "../../outside.png",
    "/outside.png",
    "a/../../../outside.png",
    "-rf",
    "a\nb.png",
    "$(id).png",
    "x" * 5000,
    "a\0b",
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with parameters that point at `mine`, which is empty, and around it a folder of its own."""
    folder = tmp_path / "around" / "project"
    folder.mkdir(parents=True)
    monkeypatch.chdir(ROOT)
    document = compose("quickstart")
    document["data"].update(path="mine", watch="mine", generate=[], part_truth=[], max_rejected_share=1.0)
    monkeypatch.chdir(folder)
    write_params(document, "params.yaml")
    (folder / "runtime.yaml").write_text((ROOT / "runtime.yaml").read_text())
    monkeypatch.setattr("sys.argv", ["stages/prepare_data.py"])
    return folder


def test_prepare__paths_masks_and_class_names_of_strangers_are_labels_and_never_files(project):
    images = [encoded(picture(size=(16, 16 + n)), "PNG") for n in range(5 * len(HOSTILE))]
    rows = [
        (image, f"{n}{HOSTILE[n % len(HOSTILE)]}" if n >= len(HOSTILE) else HOSTILE[n])
        for n, image in enumerate(images)
    ]
    labels = [["../../outside", "/outside", "<script>x</script>"][n % 3] for n in range(len(rows))]
    write(project / "mine" / "all.parquet", rows, labels=labels)
    prepare_data.main()
    manifest = json.loads((project / "data/shards/manifest.json").read_text())
    assert sorted(manifest["classes"]) == sorted(set(labels))
    stored = set()
    for path in (project / "data" / "shards").glob("*.parquet"):
        stored |= {row["path"] for row in pq.read_table(path)["image"].to_pylist()}
    assert stored == {path for _, path in rows}
    made = [path.relative_to(project.parent).as_posix() for path in project.parent.rglob("*") if path.is_file()]
    assert all(path.startswith(("project/data/", "project/metrics/", "project/.semmae/", "project/mine/")) or
               path in ("project/params.yaml", "project/runtime.yaml") for path in made), made  # fmt: skip
    assert not [path for path in made if "outside" in path or "script" in path]


def test_source__a_footer_with_a_text_without_end_is_not_read(tmp_path):
    table = pa.table({"image": pa.array([{"bytes": b"0", "path": "a.png"}], ENCODED), "label": [0]})
    pq.write_table(table.replace_schema_metadata({"note": "x" * (2**24 + 1)}), tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match="train-0.parquet: not a readable Parquet file .*fetch it again") as error:
        open_(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
