"""What the tests of all rooms share."""

import gc
import io
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As in the commands, whose processes are children of these.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what it puts aside with &
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests' own processes hear Ctrl-C

import numpy as np
import pytest

# CUDA builds of torch bring Triton, whose LLVM and TensorFlow's in one process crash it.
sys.modules.setdefault("triton", None)


gc.set_threshold(50_000, 20, 20)  # as in the commands


def pytest_collection_finish():
    """What was imported stays: the collector of garbage need not pass through it again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """The table of the parity tests, from all processes that ran them."""
    reports = [r for key in ("passed", "failed") for r in terminalreporter.getreports(key)]
    found = [entry for report in reports for entry in report.user_properties]
    rows = sorted(value for name, value in found if name == "parity")
    if not rows:
        return
    terminalreporter.section("differences in units of the outputs' deviation, and parameters")
    width = max(len(name) for name, _, _ in rows) + 2
    for name, error, parameters in rows:
        terminalreporter.write_line(f"{name:<{width}}{error:>10.1e}{parameters:>16,}")
    worst = max(error for _, error, _ in rows)
    terminalreporter.write_line(f"{len(rows)} models, largest difference {worst:.1e}")
    for name, value in found:
        if name == "note":
            terminalreporter.write_line(value)


@pytest.fixture
def tiny_model():
    """A function that builds a small model whose every parameter is non-trivial."""
    import keras

    import keras_vit

    def build(**overrides):
        keras.utils.set_random_seed(overrides.pop("seed", 0))
        arguments = {
            "image_size": 16,
            "patch_size": 4,
            "hidden_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "num_classes": 5,
        }
        model = keras_vit.VisionTransformer(**(arguments | overrides))
        rng = np.random.default_rng(1)
        for variable in model.trainable_variables:
            variable.assign(variable + rng.normal(0, 0.1, variable.shape))
        return model

    return build


@pytest.fixture(scope="session")
def encode():
    """A function that encodes an array, or a PIL image, in a format: uint8 [h, w, 3] -> bytes."""
    from PIL import Image

    def to_bytes(image, image_format="PNG", **options):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture
def photo():
    """A function that paints a smooth random picture: height, width, seed -> uint8 [h, w, 3]."""
    from PIL import Image

    def paint(height=60, width=80, seed=0):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))

    return paint
