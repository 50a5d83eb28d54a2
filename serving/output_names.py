"""The preprocessing fingerprint in the one place of a SavedModel that a client can ask for.

TF Serving keeps of a loaded model only its signatures, and GetModelMetadata returns them with the
names of their tensors: these names carry the fingerprint.
"""

from __future__ import annotations

from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils

PREFIX = "preprocessing_"


def name_outputs(directory: Path, fingerprint: str) -> None:
    """Rename the outputs of every signature to `preprocessing_FINGERPRINT/SIGNATURE/OUTPUT`.

    Args:
        directory: of the SavedModel, which is written anew.
        fingerprint: of the preprocessing.
    """
    file = directory / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    meta_graph = saved_model.meta_graphs[0]
    for signature, definition in meta_graph.signature_def.items():
        if signature.startswith("__"):
            continue  # how to initialise the model, not a question to it
        for alias, info in definition.outputs.items():
            node = meta_graph.graph_def.node.add(op="Identity", input=[info.name])
            node.name = f"{PREFIX}{fingerprint}/{signature}/{alias}"
            node.attr["T"].type = info.dtype
            info.name = f"{node.name}:0"
    file.write_bytes(saved_model.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(directory))
