"""Signatures to a SavedModel whose graph is flat.

`tf.saved_model.save` writes each signature as a function that the graph calls. TensorFlow's
optimiser treats a function by itself, without the shapes of what goes into it, and so misses most
of what it could join. Here every operation stands in the one graph, each weight is there once, and
TF Serving's loader finds nothing else to restore.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

# The outputs of every signature are called `preprocessing_FINGERPRINT/SIGNATURE/OUTPUT`: of a
# loaded model TF Serving keeps only the signatures, and GetModelMetadata returns them with the
# names of their tensors, the one place that a client can ask for.
PREFIX = "preprocessing_"


def write_saved_model(directory: Path, signatures: Mapping[str, Any], fingerprint: str) -> None:
    """Write a SavedModel as TensorFlow 1 did, which every TF Serving loads.

    Args:
        directory: to write, empty or not there.
        signatures: concrete functions by name; each gives a dict of tensors.
        fingerprint: of the preprocessing, for the names of the outputs.

    Example:
        >>> import tempfile
        >>> double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None])])
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_saved_model(folder, {"double": double.get_concrete_function()}, "0" * 12)
        >>> (folder / "saved_model.pb").exists()
        True
    """
    used = {id(v.handle): v for f in signatures.values() for v in f.graph.variables}
    values = {key: variable.numpy() for key, variable in used.items()}
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        weights = {
            key: tf.compat.v1.get_variable(
                f"weights/{number:03d}",
                value.shape,
                value.dtype,
                tf.compat.v1.zeros_initializer(),
                use_resource=True,
            )
            for number, (key, value) in enumerate(values.items())
        }
        if weights:
            # Fed, since an initial value would stand in the graph a second time. Before the
            # signatures are there, since each run of a session prepares the whole graph.
            session.run(
                [weight.initializer for weight in weights.values()],
                {weight.initializer.inputs[1]: values[key] for key, weight in weights.items()},
            )
        definitions = {
            name: _signature(name, function, weights, f"{PREFIX}{fingerprint}")
            for name, function in signatures.items()
        }
        saver = tf.compat.v1.train.Saver(list(weights.values())) if weights else None
        for node in graph.get_operations():
            node._set_device("")
        builder = tf.compat.v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            session, ["serve"], definitions, saver=saver, strip_default_attrs=True
        )
        builder.save()


def _signature(name: str, function: Any, weights: Mapping[int, Any], prefix: str) -> Any:
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
        function.graph.as_graph_def(), captures, return_elements=fetched, name=name
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
