"""Which variable gets what: factors on learning rate and weight decay, or nothing at all."""

from __future__ import annotations

import dataclasses
import re

import keras

from keras_vit import VisionTransformer
from keras_vit.lora import select_paths
from training.optimization.config import OptimizerConfig, parse_rule

# Layers before the first block, which `layer_decay` slows down most.
_EMBEDDINGS = ("stem", "patch_embedding", "position_embedding", "prefix_tokens", "pre_norm")
# Weights that no gradient reaches.
_STATISTICS = ("moving_mean", "moving_variance")


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What the optimizer does to a variable.

    Args:
        group: what the rules that decided are called, for people.
        learning_rate: factor on the learning rate; 0 for a frozen variable.
        weight_decay: factor on the weight decay.
    """

    group: str
    learning_rate: float
    weight_decay: float


def treatments(
    model: VisionTransformer, optimizer: OptimizerConfig
) -> list[tuple[keras.Variable, Treatment]]:
    """What the rules say about each variable of a model.

    The first rule that fits decides. `layer_decay` multiplies the learning rate by
    `layer_decay ** k`, k being 0 for the head and the last norm, `depth - i` for block i and
    `depth + 1` for what comes before the blocks, as in BEiT (Bao et al., 2022).

    Args:
        model: its variables, in the order of `model.weights`, without running statistics.
        optimizer: has the rules.

    Returns:
        Pairs of variable and `Treatment`. A variable that is not trainable already is frozen.

    Raises:
        ValueError: if a pattern fits no variable; the message names paths that are near.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> config = OptimizerConfig(learning_rate_rules=("head/.*=10",))
        >>> variable, treatment = treatments(model, config)[-1]
        >>> variable.path, treatment.learning_rate, treatment.weight_decay
        ('head/bias', 10.0, 0.0)
    """
    variables = [v for v in model.weights if v.path.rsplit("/", 1)[-1] not in _STATISTICS]
    paths = [variable.path for variable in variables]
    rates = [parse_rule(rule, "") for rule in optimizer.learning_rate_rules]
    decays = [parse_rule(rule, "") for rule in optimizer.weight_decay_rules]
    select_paths([pattern for pattern, _ in rates], paths, "optimizer.learning_rate_rules")
    select_paths([pattern for pattern, _ in decays], paths, "optimizer.weight_decay_rules")
    frozen = set(select_paths(optimizer.frozen, paths, "optimizer.frozen"))
    depth = len(model.blocks)
    result = []
    for variable in variables:
        path = variable.path
        rate_rule, rate = _first(rates, path, 1.0)
        decay_rule, decay = _first(decays, path, 0.0)
        if path in frozen or not variable.trainable or rate == 0:
            result.append((variable, Treatment("frozen", 0.0, 0.0)))
            continue
        place = ""
        if optimizer.layer_decay != 1:
            place, exponent = _place(path, depth)
            rate *= optimizer.layer_decay**exponent
        names = dict.fromkeys(name for name in (place, rate_rule, decay_rule) if name)
        result.append((variable, Treatment(" ".join(names) or "all others", rate, decay)))
    return result


def freeze(model: VisionTransformer, optimizer: OptimizerConfig) -> None:
    """Take the variables that the rules freeze out of `model.trainable_variables`.

    A batch normalisation whose scale and offset are frozen keeps its running statistics too. No
    file of the model tells of this: once saved and loaded, all its variables can learn again. This
    one's can after `model.trainable = False` and then `True`; Keras ignores the second alone.

    Args:
        model: is changed.
        optimizer: has the rules.

    Raises:
        ValueError: if a pattern fits no variable, or nothing is left to learn.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> freeze(model, OptimizerConfig(learning_rate_rules=("head/.*=1", ".*=0")))
        >>> [variable.path for variable in model.trainable_variables]
        ['head/kernel', 'head/bias']
    """
    found = treatments(model, optimizer)
    if all(treatment.learning_rate == 0 for _, treatment in found):
        raise ValueError(
            f"All {len(found)} variables are frozen: nothing is left to learn. Narrow "
            f"optimizer.frozen={optimizer.frozen} and the factors of 0 in "
            f"optimizer.learning_rate_rules={optimizer.learning_rate_rules}."
        )
    for variable, treatment in found:
        if treatment.learning_rate == 0:
            variable.trainable = False
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable_variables:
            layer.trainable = False


def parameter_table(model: VisionTransformer, optimizer: OptimizerConfig) -> str:
    """A short table of what learns how, for the start of a run.

    Args:
        model: whose variables are counted.
        optimizer: has the rules.

    Returns:
        Lines, one for each group of variables that are treated alike.

    Raises:
        ValueError: if a pattern fits no variable.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> print(parameter_table(model, OptimizerConfig(frozen=("patch_embedding/.*",))))
        group       variables  parameters  learning rate  weight decay
        frozen              2       3,088              -             -
        all others         14         531            x 1             0
        .*/kernel           5       3,120            x 1          0.05
        learning           19       3,651
    """
    groups: dict[Treatment, list[int]] = {}
    for variable, treatment in treatments(model, optimizer):
        groups.setdefault(treatment, []).append(int(keras.ops.size(variable)))
    rows = [("group", "variables", "parameters", "learning rate", "weight decay")]
    for treatment, sizes in groups.items():
        rate = decay = "-"
        if treatment.learning_rate:
            rate = f"x {treatment.learning_rate:.3g}"
            decay = f"{optimizer.weight_decay * treatment.weight_decay:.3g}"
        rows.append((treatment.group, f"{len(sizes):,}", f"{sum(sizes):,}", rate, decay))
    learning = [size for t, sizes in groups.items() if t.learning_rate for size in sizes]
    rows.append(("learning", f"{len(learning):,}", f"{sum(learning):,}", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _first(rules: list[tuple[str, float]], path: str, default: float) -> tuple[str, float]:
    for pattern, factor in rules:
        if re.fullmatch(pattern, path):
            return pattern, factor
    return "", default


def _place(path: str, depth: int) -> tuple[str, int]:
    """The name of a variable's place for `layer_decay`, and the exponent there."""
    layer = path.split("/")[0]
    if match := re.fullmatch(r"block_(\d+)", layer):
        return layer, depth - int(match[1])
    if layer in _EMBEDDINGS:
        return "embeddings", depth + 1
    return "head", 0
