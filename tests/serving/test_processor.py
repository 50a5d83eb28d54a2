"""What the processor multiplies fast, and who is told."""

import json

import pytest

from serving.card_file import CARD_FILE
from serving.processor import advice, compute_dtype_for
from serving.server import serve
from serving.startup import ServeError


@pytest.mark.parametrize(
    ("instructions", "accelerated", "expected"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, False, "bfloat16"),
        ({"avx2", "amx_bf16"}, False, "bfloat16"),
        ({"avx2", "avx512f"}, False, "float32"),  # TensorFlow has to imitate it
        (set(), False, "float32"),
        (set(), True, "bfloat16"),
    ],
)
def test_what_is_faster(monkeypatch, instructions, accelerated, expected):
    monkeypatch.setattr("serving.processor.instructions", lambda: instructions)
    assert compute_dtype_for("bfloat16", accelerated=accelerated) == expected
    assert compute_dtype_for("float32", accelerated=accelerated) == "float32"


def test_a_server_says_which_export_is_slow_on_it(tmp_path, monkeypatch, capsys):
    for number, dtype in enumerate(("float32", "bfloat16"), start=1):
        card = tmp_path / str(number) / CARD_FILE
        card.parent.mkdir(parents=True)
        card.write_text(json.dumps({"dtype": "bfloat16", "compute_dtype": dtype}))
    monkeypatch.setattr("serving.processor._has_gpu", lambda: False)
    monkeypatch.setattr("serving.processor.instructions", lambda: {"avx2"})
    (file := tmp_path / "batching").write_text("")
    with pytest.raises(ServeError):  # it does not come to serving
        serve(tmp_path, batching_parameters_file=file, per_model_batching=True)
    captured = capsys.readouterr()
    assert f"{tmp_path / '2'} computes in bfloat16" in captured.err
    assert "--compute-dtype float32" in captured.err
    assert str(tmp_path / "1") not in captured.err
    assert not captured.out
    monkeypatch.setattr("serving.processor.instructions", lambda: {"amx_bf16"})
    assert not advice([tmp_path / "2"])
