"""What the documentation takes for granted: photos, models under their names, a running server."""

import contextlib
import gzip
import http.server
import json
import os
import re
import shutil
import socket
import threading
from pathlib import Path
from unittest import mock

import numpy as np
from doc_blocks import PAGES, ROOT
from PIL import Image
from seeded import weights

from keras_vit.weights.download import download
from keras_vit.weights.safetensors import write_safetensors

_FIXTURES = ROOT / "tests" / "fixtures"
_CLASSES = {"cat": (200, 80, 40), "dog": (40, 80, 200)}


def make_home(home):
    """Photos of two classes, a trained model and its export, as `keras-vit train` leaves them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for name, colour in _CLASSES.items():
            folder = home / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(colour + rng.normal(0, 30, (40, 50, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    shutil.copytree(home / "photos" / "test", home / "archive")
    shutil.copy(home / "archive" / "cat" / "0.jpg", home / "cat.jpg")
    Image.open(home / "archive" / "dog" / "0.jpg").save(home / "dog.png")
    (home / "damaged.jpg").write_bytes(b"no image")
    shutil.copy(_FIXTURES / "jax_reference" / "google_token.npz", home / "ViT-B_16.npz")

    import keras

    import keras_vit
    from serving.export import export_model

    keras.utils.set_random_seed(0)
    model = keras_vit.VisionTransformer(
        32, 8, hidden_dim=32, depth=1, num_heads=2, num_classes=2, labels=list(_CLASSES)
    )
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    (home / "runs" / "photos").mkdir(parents=True)
    model.save(home / "runs" / "photos" / "model.keras")
    shutil.copytree(home / "runs" / "photos", home / "runs" / "before")
    keras_vit.save_checkpoint(model, home / "my_checkpoint", format="timm")
    export_model(model, home / "served" / "photos", batch_sizes=[1])


def make_hub(cache):
    """A cache of huggingface_hub with a small model under each name that the pages mention."""
    import keras_vit

    records = json.loads(gzip.decompress((_FIXTURES / "goldens.json.gz").read_bytes()))
    kinds = {record["name"]: record for record in reversed(records["transformers"])}
    tiny = keras_vit.VisionTransformer(
        32, 16, hidden_dim=32, depth=1, num_heads=2, num_classes=5, labels=list("abcde")
    )
    timm = keras_vit.save_checkpoint(tiny, cache / "timm", format="timm")
    for name in _named(r"hf://([\w-]+/[\w.-]*\w)"):
        organisation, _, model = name.partition("/")
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        folder = repository / "snapshots" / ("0" * 40)
        if organisation == "timm":
            shutil.copytree(timm, folder)
            continue
        folder.mkdir(parents=True)
        record = kinds["Dinov2Model" if "dino" in model else "ViTForImageClassification"]
        (folder / "config.json").write_text(json.dumps(record["config"]))
        arrays = {key: weights(key, tuple(shape)) for key, shape in record["shapes"].items()}
        write_safetensors(folder / "model.safetensors", arrays)


def _named(pattern):
    text = "\n".join(path.read_text() for path in [*PAGES, *(ROOT / "docs").rglob("*.ipynb")])
    return sorted(set(re.findall(pattern, text)))


def fill_downloads(cache):
    """Put a small `.npz` where each `gs://` address of the pages is kept once it was fetched."""
    with _bucket() as endpoint, mock.patch.dict(os.environ, KERAS_VIT_GS_ENDPOINT=endpoint):
        for address in _named(r'gs://[^"\s)]+\.npz'):
            download(address, offline=False, cache_dir=cache)


@contextlib.contextmanager
def _bucket():
    content = (_FIXTURES / "jax_reference" / "google_token.npz").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def photos_server(home: Path):
    """The local server of `served/photos`, with REST."""
    from serving.configuration.models import ModelConfig
    from serving.local_server.server import LocalServer

    models = [ModelConfig("photos", str(home / "served" / "photos"))]
    with LocalServer(models, port=0, rest_port=0) as server:
        yield server
