"""Files that vouch for themselves: Parquet shards of images, arrays and masks, here or in an object store."""
