"""A model to a SavedModel that TF Serving takes as it is."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.atomic_files import publish
from serving.configuration.batching import BatchingParameters
from serving.export_check import check_export
from serving.fused import TokenMerging, check_token_merging
from serving.model_card import Origin, write_card
from serving.processor import compute_dtype_for
from serving.saved_model import write_saved_model
from serving.signatures import MAX_IMAGES, ServedModel
from serving.threads import STREAMS
from serving.version_directory import is_version, staging_directory
from serving.warmup_records import write_warmup

DTYPES = ("float32", "bfloat16")
BATCH_SIZES = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Export:
    """What was published.

    Args:
        path: the version's directory, `BASE/N`.
        version: N.
        signatures: the names of its signatures.
        compute_dtype: that it computes in.
        megabytes: size on disk, in units of a million bytes.
        load_seconds: how long it took to load.
        largest_difference: between the served probabilities and the Keras model's; with token
            merging, those of the graph before it was written.
    """

    path: Path
    version: int
    signatures: tuple[str, ...]
    compute_dtype: str
    megabytes: float
    load_seconds: float
    largest_difference: float


def export_model(
    model: VisionTransformer,
    base: str | Path,
    *,
    version: int | None = None,
    dtype: str = "float32",
    compute_dtype: str | None = None,
    top_k: int = 10,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    token_merging: TokenMerging | None = None,
    streams: int | None = None,
    origin: Origin | None = None,
) -> Export:
    """Write `BASE/N/`, check it the way TF Serving loads it, and publish it in one rename.

    Decoding and preprocessing are inside the graph. Nothing is visible under `BASE` until the
    export has been reloaded and has answered as the Keras model does (with token merging: as the
    graph did before it was written).

    Args:
        model: the model, with its preprocessing and labels.
        base: the directory of the served model; made if it does not exist.
        version: the number N, positive. Default None: one more than the highest there.
        dtype: "float32" or "bfloat16", of the weights in the file.
        compute_dtype: that they are loaded as and the model computes in; outputs are float32
            always. Default None: that of the weights, but float32 where this machine has no
            instructions for bfloat16 (`serving.processor`).
        top_k: how many classes an answer holds, at most. Default 10.
        batch_sizes: that a server with batching runs the model at, increasing; each is warmed up.
            Default 1, 2, 4 and 8.
        token_merging: how many similar tokens blocks merge: faster, and answers differ a little.
            Default None: none.
        streams: in how many parts the tokens are computed at the same time, at least 1; best the
            number of the server's cores where these are few, and 1 for a GPU. Models with a
            convolutional stem, differential attention or no fixed input size have one. Default
            None: `STREAMS` of the computation's dtype.
        origin: what the model card says about where the model comes from. Default None: nothing.

    Returns:
        An `Export`.

    Raises:
        ValueError: if an argument is out of range, `base` is a file, the version exists, or the
            tokens of this model cannot be merged.
        RuntimeError: if the export does not answer as the model does; nothing is left behind.

    Example:
        >>> import tempfile
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> export_model(model, tempfile.mkdtemp()).version
        1
    """
    compute_dtype = _compute_dtype(dtype, compute_dtype)
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}.")
    streams = STREAMS[compute_dtype] if streams is None else streams
    if streams < 1:
        raise ValueError(
            f"streams must be at least 1, not {streams}: give the number of the server's cores, or "
            f"leave it out."
        )
    batching = _batching_parameters(batch_sizes)
    base = Path(base).absolute()
    _target(base, version)
    if token_merging is not None:
        check_token_merging(model)
    copy = serving_copy(model, compute_dtype)
    # Keeps the weights that the signatures use.
    served = ServedModel(copy, top_k, token_merging, streams)
    signatures = served.signatures()
    with staging_directory(base) as directory:
        fingerprint = copy.preprocessing.fingerprint
        write_saved_model(directory, signatures, fingerprint, served.called, dtype)
        (directory / "batching_params.pbtxt").write_text(batching.to_text())
        write_card(directory, copy, dtype, token_merging, served.parts.streams, origin or Origin())
        write_warmup(directory, signatures, batch_sizes, copy.preprocessing.output_shape[:2])
        check = check_export(directory, model, dtype, served.parts if token_merging else None)
        megabytes = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()) / 1e6
        target = _publish(directory, base, version)
    return Export(
        target,
        int(target.name),
        tuple(sorted(signatures)),
        compute_dtype,
        round(megabytes, 3),
        round(check.load_seconds, 3),
        check.largest_difference,
    )


def _compute_dtype(dtype: str, compute_dtype: str | None) -> str:
    for name, value in (("dtype", dtype), ("compute_dtype", compute_dtype or dtype)):
        if value not in DTYPES:
            raise ValueError(f"{name} must be one of {DTYPES}, not {value!r}.")
    if (dtype, compute_dtype) == ("float32", "bfloat16"):
        raise ValueError(
            "compute_dtype='bfloat16' rounds the weights anyway: give dtype='bfloat16' with it, "
            "which halves the file."
        )
    accelerated = any(map(tf.config.list_physical_devices, ("GPU", "TPU")))
    return compute_dtype or compute_dtype_for(dtype, accelerated=accelerated)


def serving_copy(model: VisionTransformer, dtype: str) -> VisionTransformer:
    """The model rebuilt at a dtype, without strategy, optimizer or LoRA residue.

    Args:
        model: any `VisionTransformer`; one with LoRA gives its merged kernels.
        dtype: "float32" or "bfloat16".

    Returns:
        A new `VisionTransformer` with the same weights.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> serving_copy(model, "bfloat16").blocks[0].compute_dtype
        'bfloat16'
    """
    copy = VisionTransformer.from_config({**model.get_config(), "dtype": dtype})
    values = {variable.path: variable for variable in model.weights}
    for layer in model._flatten_layers():
        if getattr(layer, "lora_enabled", False):
            values[f"{layer.path}/kernel"] = layer.kernel
    for variable in copy.weights:
        variable.assign(np.asarray(values[variable.path]))
    return copy


def _batching_parameters(batch_sizes: Sequence[int]) -> BatchingParameters:
    """What the version's own batching file says: waiting a little pays more than it costs."""
    largest = max(batch_sizes, default=0)
    if not batch_sizes:
        raise ValueError("batch_sizes are empty: name at least one, such as 1.")
    if largest > MAX_IMAGES:
        raise ValueError(
            f"batch_sizes are {tuple(batch_sizes)}, but a request may hold {MAX_IMAGES} images."
        )
    return BatchingParameters(
        max_batch_size=MAX_IMAGES,
        max_execution_batch_size=largest,
        enable_large_batch_splitting=True,
        allowed_batch_sizes=tuple(batch_sizes),
        batch_timeout_micros=2000,
        max_enqueued_batches=100,
    )


def _target(base: Path, version: int | None) -> Path:
    """The directory to publish, as long as nobody else takes its number."""
    if base.exists() and not base.is_dir():
        raise ValueError(
            f"The export base {base} is a file: give a directory; versions go into BASE/1, BASE/2."
        )
    # Of files too: TF Serving takes whatever has a number for a name.
    entries = base.iterdir() if base.exists() else ()
    taken = {int(entry.name) for entry in entries if is_version(entry.name)}
    following = max(taken, default=0) + 1
    if version is None:
        version = following
    if not 1 <= version < 2**63:
        raise ValueError(f"version must be a positive number of 64 bits, not {version}.")
    if version in taken:
        raise ValueError(
            f"Version {version} exists already in {base}, and a server may be using it: leave out "
            f"--version to take {following}, or name another number."
        )
    return base / str(version)


def _publish(directory: Path, base: Path, version: int | None) -> Path:
    """Make the version visible, under the next number if another export has taken this one."""
    while True:
        target = _target(base, version)
        try:
            publish(directory, target, replace=False)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            continue
        return target
