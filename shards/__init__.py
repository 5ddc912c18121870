"""Files that carry their own hash: Parquet shards of images, arrays and masks, in a folder or in an object store."""
