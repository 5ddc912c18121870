import pyarrow.parquet as pq


def paths_of(shards):
    """Path of the image in its source for each row of `ImageShards`, as any reader of Parquet finds it."""
    files = shards.folder.glob(f"{shards.split}-*.parquet")
    rows = (row for file in files for row in pq.read_table(file, columns=["id", "image"]).to_pylist())
    paths = {row["id"]: row["image"]["path"] for row in rows}
    return [paths[image_id] for image_id in shards.ids.tolist()]
