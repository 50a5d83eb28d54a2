"""What the clients return: one small typed value per image, model or version."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best classes of one image.

    Attributes:
        source: the file's path, or `"image 3"` for the fourth image given as bytes or pixels.
        valid: whether the server could read the image.
        labels: class names, best first; empty for an invalid image.
        scores: their probabilities, in the same order.
        version: the model version that answered.

    Example:
        >>> Prediction("seven.png", True, ("7", "1"), (0.9, 0.1), 1).labels[0]
        '7'
    """

    source: str
    valid: bool
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    version: int


@dataclass(frozen=True, slots=True, eq=False)
class Probabilities:
    """The probability of every class for one image.

    Attributes:
        source: the file's path, or `"image 3"`.
        valid: whether the server could read the image.
        probabilities: float32 [num_classes]; [0] for an invalid image.
        version: the model version that answered.

    Example:
        >>> Probabilities("seven.png", True, np.array([0.1, 0.9]), 1).probabilities.argmax()
        np.int64(1)
    """

    source: str
    valid: bool
    probabilities: np.ndarray
    version: int


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The representation of one image.

    Attributes:
        source: the file's path, or `"image 3"`.
        valid: whether the server could read the image.
        embedding: float32 [hidden_dim]; [0] for an invalid image.
        version: the model version that answered.

    Example:
        >>> Embedding("seven.png", True, np.zeros(16), 1).embedding.shape
        (16,)
    """

    source: str
    valid: bool
    embedding: np.ndarray
    version: int


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMap:
    """Where the model looks in one image.

    Attributes:
        source: the file's path, or `"image 3"`.
        valid: whether the server could read the image.
        attention: float32 [grid_h, grid_w]; [0, 0] for an invalid image.
        version: the model version that answered.

    Example:
        >>> AttentionMap("seven.png", True, np.zeros((4, 4)), 1).attention.shape
        (4, 4)
    """

    source: str
    valid: bool
    attention: np.ndarray
    version: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        dtype: TensorFlow's name, such as `"DT_FLOAT"`.
        shape: sizes, -1 where any size fits; None for an unknown rank.

    Example:
        >>> TensorSpec("DT_FLOAT", (-1, 16)).shape
        (-1, 16)
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """One function of a model.

    Attributes:
        inputs: by name.
        outputs: by name.
        method: TF Serving's method name.

    Example:
        >>> Signature({"image_bytes": TensorSpec("DT_STRING", (-1,))}, {}, "").outputs
        {}
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    method: str


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a served model can do.

    Attributes:
        model: its name.
        version: the version described.
        signatures: by name.
        preprocessing_fingerprint: of what the model does with images before it sees them; None if
            the export does not say.

    Example:
        >>> ModelMetadata("digits", 1, {}).version
        1
    """

    model: str
    version: int
    signatures: dict[str, Signature]
    preprocessing_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """How one version of a model is doing.

    Attributes:
        version: its number.
        state: `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error: why it ended; empty when nothing went wrong.

    Example:
        >>> VersionStatus(1, "AVAILABLE", "").state
        'AVAILABLE'
    """

    version: int
    state: str
    error: str
