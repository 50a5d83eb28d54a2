"""An export loads, and answers equally, under the TensorFlow of older servers.

`KERAS_VIT_TENSORFLOWS=/venv-2.19/bin/python:/venv-2.20/bin/python pytest
tests/serving/test_other_tensorflows.py`; each needs `pip install tensorflow-cpu` of its version.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_vit
from serving.export import export_model
from serving.warmup_records import warmup_inputs

PROGRAM = Path(__file__).with_name("other_tensorflow.py")
PYTHONS = [python for python in os.environ.get("KERAS_VIT_TENSORFLOWS", "").split(":") if python]


def answers(python, directory):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [python, str(PROGRAM), str(directory)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()[-1], dict(np.load(directory / "answers.npz"))


def filled(strings):
    """Bytes as an array without objects, all of one length: `other_tensorflow.py` undoes it."""
    return np.array([data + b"x" for data in strings], f"V{1 + max(map(len, strings))}")


@pytest.mark.slow
@pytest.mark.skipif(not PYTHONS, reason="needs KERAS_VIT_TENSORFLOWS: Pythons with other versions")
@pytest.mark.parametrize(
    ("dtype", "compute_dtype"),
    [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")],
)
def test_an_export_answers_equally_under_other_versions(
    tmp_path, photo, encode, dtype, compute_dtype
):
    model = keras_vit.create_model("vit_tiny_patch16_224", num_classes=7, image_size=64, depth=3)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.05, variable.shape))
    export = export_model(
        model, tmp_path / "base", dtype=dtype, compute_dtype=compute_dtype, batch_sizes=[1]
    )
    export.path.rename(tmp_path / "model")
    images = [encode(photo(60, 80, seed), kind) for seed, kind in enumerate(["JPEG", "PNG", "GIF"])]
    images += [encode(photo(30, 30, 9), "BMP"), b"no image"]
    padded = filled(images)
    questions = dict.fromkeys(("serving_default", "probabilities", "embed"), padded)
    questions |= {"attention": padded, "images": np.stack([photo(50, 50, s) for s in range(3)])}
    example = warmup_inputs("classify", 1, (40, 40))["inputs"]
    questions["classify"] = filled(example)
    np.savez(tmp_path / "questions.npz", **questions)
    _, expected = answers(sys.executable, tmp_path)
    assert expected["serving_default/valid"].tolist() == [True] * 4 + [False]
    for python in PYTHONS:
        version, got = answers(python, tmp_path)
        assert set(got) == set(expected), version
        for name, value in expected.items():
            if value.dtype.kind == "f":
                tolerance = 1e-5 if compute_dtype == "float32" else 2e-2
                np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=version)
            elif compute_dtype == "float32" or not name.endswith("classes"):
                np.testing.assert_array_equal(got[name], value, err_msg=f"{version} {name}")
