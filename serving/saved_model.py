"""Signatures to a SavedModel whose graph is flat.

`tf.saved_model.save` writes each signature as a function that the graph calls. TensorFlow's
optimiser treats a function by itself, without the shapes of what goes into it, and so misses most
of what it could join. Here every operation stands in the one graph, each weight is there once, and
TF Serving's loader finds nothing else to restore.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, saver_pb2

from serving.flat_graph import Body, bodies, flatten

# The outputs of every signature are called `preprocessing_FINGERPRINT/SIGNATURE/OUTPUT`: of a
# loaded model TF Serving keeps only the signatures, and GetModelMetadata returns them with the
# names of their tensors, the one place that a client can ask for.
PREFIX = "preprocessing_"


def write_saved_model(
    directory: Path,
    signatures: Mapping[str, Any],
    fingerprint: str,
    called: Collection[Any] = (),
    dtype: str = "float32",
) -> None:
    """Write a SavedModel as TensorFlow 1 did, which every TF Serving loads.

    Args:
        directory: to write, empty or not there.
        signatures: concrete functions by name; each gives a dict of tensors.
        fingerprint: of the preprocessing, for the names of the outputs.
        called: concrete functions whose operations take the place of calls in the signatures.
            Default: none; other functions stay what they are.
        dtype: that matrices of float32 weights have in the file; loading makes them float32 again.
            Vectors stay as they are: they are a hundredth of the file, and up to half of the error
            that rounding makes. Default "float32".

    Example:
        >>> import tempfile
        >>> double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None])])
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_saved_model(folder, {"double": double.get_concrete_function()}, "0" * 12)
        >>> (folder / "saved_model.pb").exists()
        True
    """
    used = {id(v.handle): v for f in signatures.values() for v in f.graph.variables}
    written_out = bodies(called)
    with tf.Graph().as_default() as graph:
        weights = {
            key: tf.compat.v1.get_variable(
                f"weights/{number:03d}",
                variable.shape,
                variable.dtype,
                tf.compat.v1.zeros_initializer(),
                use_resource=True,
            )
            for number, (key, variable) in enumerate(used.items())
        }
        definitions = {
            name: _signature(name, function, weights, f"{PREFIX}{fingerprint}", written_out)
            for name, function in signatures.items()
        }
        stored = {
            weight.op.name: tf.as_dtype(dtype)
            if weight.dtype == tf.float32 and weight.shape.rank > 1
            else weight.dtype
            for weight in weights.values()
        }
        saver = _saver(list(weights.values()), list(stored.values()))
        meta_graph = tf.compat.v1.train.export_meta_graph(
            graph_def=graph.as_graph_def(),
            saver_def=saver,
            strip_default_attrs=True,
        )
    meta_graph.meta_info_def.tags.append("serve")
    for name, definition in definitions.items():
        meta_graph.signature_def[name].CopyFrom(definition)
    saved_model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph])
    (directory / "variables").mkdir(parents=True, exist_ok=True)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString(deterministic=True))
    if weights:
        # As a saver would, but from where they are, without a session and its copies.
        tf.raw_ops.SaveV2(
            prefix=str(directory / "variables" / "variables"),
            tensor_names=list(stored),
            shape_and_slices=[""] * len(stored),
            tensors=[
                tf.cast(variable.value(), kind)
                for variable, kind in zip(used.values(), stored.values(), strict=True)
            ],
        )


def _saver(weights: Sequence[Any], stored: Sequence[tf.DType]) -> saver_pb2.SaverDef:
    """What a loader runs to restore weights, added to the current graph.

    That of `tf.compat.v1.train.Saver` would have the file hold the dtypes of the variables.
    """
    names, slices = [weight.op.name for weight in weights], [""] * len(weights)
    with tf.name_scope("save"):
        file = tf.compat.v1.placeholder_with_default("model", [], "file")
        restoring = []
        if weights:
            restored = tf.raw_ops.RestoreV2(
                prefix=file, tensor_names=names, shape_and_slices=slices, dtypes=stored
            )
            restoring = [
                weight.assign(tf.cast(value, weight.dtype), read_value=False)
                for weight, value in zip(weights, restored, strict=True)
            ]
        restore = tf.group(*restoring, name="restore_all")
        save = tf.identity(file, name="saved")  # a definition needs one; nobody saves
    return saver_pb2.SaverDef(
        filename_tensor_name=file.name,
        save_tensor_name=save.name,
        restore_op_name=restore.name,
        version=saver_pb2.SaverDef.V2,
    )


def _signature(
    name: str, function: Any, weights: Mapping[int, Any], prefix: str, called: Mapping[str, Body]
) -> Any:
    """Copy a function's operations into the current graph."""
    captures = {
        inside.name: weights[id(outside)].handle
        if id(outside) in weights
        else tf.constant(outside.numpy())
        for outside, inside in function.graph.captures
    }
    outputs = function.structured_outputs
    (given,) = (t for t in function.graph.inputs if t.name not in captures)
    fetched = [given.name, *(tensor.name for tensor in outputs.values())]
    given, *tensors = tf.import_graph_def(
        flatten(function.graph.as_graph_def(), called),
        captures,
        return_elements=fetched,
        name=name,
    )
    named = {}
    with tf.name_scope(f"{prefix}/{name}/"):
        for output, tensor in zip(outputs, tensors, strict=True):
            named[output] = tf.identity(tensor, name=output)
    (argument,) = (spec.name for spec in function.structured_input_signature[0])
    info = tf.compat.v1.saved_model.build_tensor_info
    return tf.compat.v1.saved_model.build_signature_def(
        {argument: info(given)},
        {output: info(tensor) for output, tensor in named.items()},
        "tensorflow/serving/predict",
    )
