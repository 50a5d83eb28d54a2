"""Many images in few files: TFRecord shards of our own, and tar shards of webdataset."""
