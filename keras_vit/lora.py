"""LoRA: fine-tuning through low-rank updates of frozen kernels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import keras

from keras_vit.vision_transformer import VisionTransformer

# The two kernels of each attention. Query, key and value are one fused kernel [D, 3 D] here: its
# update shares the factor A among the three.
ATTENTION_KERNELS = (r".*/attention2?/(qkv|projection)/kernel",)
_HEADS = ("head", "distillation_head")


def add_lora(
    model: VisionTransformer,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION_KERNELS,
    trainable: Sequence[str] = (),
) -> None:
    """Freeze a model but for its head and low-rank updates of some kernels.

    "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021): a kernel W [in, out]
    becomes `W + alpha / rank * A B` with A [in, rank] random and B [rank, out] zero, so that the
    model computes at first what it did. Only A, B and the head learn.

    `model.save` writes the sums: the file is that of a plain model. Checkpoints of
    `model.variables` hold the factors.

    Args:
        model: is changed. Under a `tf.distribute` strategy, call this in its scope.
        rank: of the updates, at least 1.
        alpha: scales them by `alpha / rank`. Default None: the rank.
        targets: regular expressions for the whole paths of the kernels of dense layers. Default
            the attention's two.
        trainable: regular expressions for the whole paths of other variables that learn in full,
            such as ".*/bias". Default none.

    Raises:
        ValueError: if the rank is below 1, the model has such updates already, or a pattern fits
            nothing; the message names paths that are near. The model is unchanged then.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> add_lora(model, rank=2)
        >>> [variable.path for variable in model.trainable_variables][:2]
        ['block_00/attention/qkv/lora_kernel_a', 'block_00/attention/qkv/lora_kernel_b']
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"The rank of LoRA must be an int of at least 1, not {rank!r}.")
    if alpha is not None and alpha <= 0:
        raise ValueError(f"The alpha of LoRA must be positive, not {alpha!r}.")
    if _adapted(model):
        raise ValueError(
            "The model has low-rank updates already: call `merge_lora(model)` before adding others."
        )
    dense = {
        layer.kernel.path: layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.Dense) and layer.name not in _HEADS
    }
    kernels = select_paths(targets, dense, "lora.targets")
    if not kernels:
        raise ValueError("lora.targets is empty: name the kernels that get an update.")
    learnable = {variable.path: variable for variable in model.trainable_variables}
    kept = set(select_paths(trainable, learnable, "lora.trainable"))
    for path, variable in learnable.items():
        variable.trainable = path in kept or path.split("/")[0] in _HEADS
    for path in kernels:
        dense[path].enable_lora(rank, lora_alpha=alpha)
    _forget_functions(model)


def merge_lora(model: VisionTransformer) -> None:
    """Add the low-rank updates to their kernels; a plain model remains, all of which can learn.

    Args:
        model: is changed; one without such updates stays as it is.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> add_lora(model, rank=2)
        >>> len(model.weights), len(model.trainable_variables)
        (25, 6)
        >>> merge_lora(model)
        >>> len(model.weights), len(model.trainable_variables)
        (21, 21)
    """
    layers = _adapted(model)
    for layer in layers:
        update = keras.ops.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
        kernel = keras.ops.cast(layer._kernel, "float32")
        layer._kernel.assign(kernel + layer.lora_alpha / layer.lora_rank * update)
        layer.lora_enabled = False
        layer.lora_rank = layer.lora_alpha = None
        del layer.lora_kernel_a, layer.lora_kernel_b
    if layers:
        model.trainable = False  # Keras takes no notice of True where it was True
        model.trainable = True
        _forget_functions(model)


def select_paths(patterns: Iterable[str], paths: Iterable[str], option: str) -> list[str]:
    """The paths that a pattern fits.

    Args:
        patterns: regular expressions for whole paths.
        paths: of variables.
        option: where the patterns were given, for the message.

    Returns:
        The paths that at least one pattern fits, in their order.

    Raises:
        ValueError: if a pattern is no regular expression, or fits none of the paths; the message
            names those that are near.

    Example:
        >>> select_paths(["head/.*"], ["norm/gamma", "head/kernel", "head/bias"], "frozen")
        ['head/kernel', 'head/bias']
    """
    paths = list(paths)
    selected: set[str] = set()
    for pattern in patterns:
        try:
            found = [path for path in paths if re.fullmatch(pattern, path)]
        except re.error as error:
            raise ValueError(
                f"{option}: {pattern!r} is not a regular expression ({error})."
            ) from error
        if not found:
            raise ValueError(
                f"{option}: the pattern {pattern!r} fits none of the {len(paths)} variables in "
                f"question. It must fit a whole path; near are {', '.join(_near(pattern, paths))}."
            )
        selected.update(found)
    return [path for path in paths if path in selected]


def _near(pattern: str, paths: list[str]) -> list[str]:
    # One of each kind: the same variable of twelve blocks says no more than that of one.
    kinds = {re.sub(r"(?<=block_)\d+", "", path): path for path in reversed(paths)}
    plain = re.sub(r"\\.|[^\w/]|(?<=block_)\d+", "", pattern).strip("/")
    # The words that they share count, wherever the pattern has its wild cards.
    words = set(plain.split("/"))

    def nearness(kind: str) -> tuple[float, float]:
        shared = [difflib.get_close_matches(word, kind.split("/"), 1, 0.7) for word in words]
        return sum(map(bool, shared)), difflib.SequenceMatcher(None, plain, kind).ratio()

    return [kinds[kind] for kind in sorted(kinds, key=nearness, reverse=True)[:4]]


def _adapted(model: VisionTransformer) -> list[keras.layers.Dense]:
    """The layers with a low-rank update."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.Dense) and layer.lora_enabled
    ]


def _forget_functions(model: VisionTransformer) -> None:
    """Drop what `fit` and `predict` have traced: it holds the variables of before."""
    model.train_function = model.test_function = model.predict_function = None
