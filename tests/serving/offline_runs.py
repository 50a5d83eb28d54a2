"""Runs of the prediction without a server, and what they wrote."""

import json

from serving.offline.images import find_files
from serving.offline.model import find_version
from serving.offline.output import Settings
from serving.offline.prediction import predict_offline


def shards(output):
    return sorted(path for path in output.iterdir() if path.name.startswith("part-"))


def rows(output):
    return [json.loads(line) for path in shards(output) for line in path.read_text().splitlines()]


def times(output):
    return {path.name: path.stat().st_mtime_ns for path in shards(output)}


def predict(base, photos, output, batch_size=2, **settings):
    settings = Settings(**{"shard_size": 4, **settings})
    return predict_offline(
        find_version(str(base)), find_files([str(photos)]), str(output), settings,
        batch_size=batch_size,
    )  # fmt: skip
