"""Several probes on the same features, as one row of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from training.probes.extraction import Features
from training.probes.few_shot_regression import SHOTS, check_shots, few_shot
from training.probes.linear import linear_probe
from training.probes.nearest_neighbours import NUM_NEIGHBOURS, neighbours

Kind = Literal["fewshot", "knn", "linear"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def probe_names(kinds: Sequence[str] = KINDS, shots: Sequence[int] = SHOTS) -> list[str]:
    """The names of the numbers that `run_probes` gives.

    Args:
        kinds: some of "fewshot", "knn" and "linear". Default all.
        shots: of "fewshot". Default 1, 5, 10 and 25.

    Returns:
        The names.

    Raises:
        ValueError: if a kind or a number of shots is none.

    Example:
        >>> probe_names(["knn", "fewshot"], [5])
        ['knn_top1', 'knn_plain_top1', 'fewshot_5_top1']
    """
    if not kinds or set(kinds) - set(KINDS):
        given = ", ".join(kinds) or "nothing"
        raise ValueError(
            f"The kinds of probes are {', '.join(KINDS)}: choose some of these, not {given}."
        )
    names = {
        "fewshot": [f"fewshot_{count}_top1" for count in shots],
        "knn": ["knn_top1", "knn_plain_top1"],
        "linear": ["linear_top1"],
    }
    if "fewshot" in kinds:
        check_shots(shots)
    return list(dict.fromkeys(name for kind in kinds for name in names[kind]))


def run_probes(
    train: Features,
    test: Features,
    num_classes: int,
    kinds: Sequence[str] = KINDS,
    shots: Sequence[int] = SHOTS,
    num_neighbours: int = NUM_NEIGHBOURS,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Run probes on features.

    Args:
        train: features to learn from.
        test: features to judge on.
        num_classes: of the data.
        kinds: some of "fewshot" (`few_shot`, mean of three draws), "knn" (`neighbours`) and
            "linear" (`linear_probe`). Default all.
        shots: of "fewshot". Default 1, 5, 10 and 25.
        num_neighbours: of "knn". Default 20.
        seed: the first of the three draws, and of the part that "linear" holds out. Default 0.
        report: called with lines for the user. Default `print`.

    Returns:
        The accuracies by the names of `probe_names`, rounded to six digits.

    Raises:
        ValueError: if a kind is none, or a probe cannot use the features.

    Example:
        >>> import numpy as np
        >>> train = Features(np.eye(3, dtype="float32")[np.arange(30) % 3], np.arange(30) % 3)
        >>> run_probes(train, train, 3, kinds=["fewshot", "linear"], shots=[1])
        {'fewshot_1_top1': 1.0, 'linear_top1': 1.0}
    """
    names = probe_names(kinds, shots)
    numbers: dict[str, float] = {}
    if "fewshot" in kinds:
        result = few_shot(train, test, num_classes, shots, seeds=range(seed, seed + 3))
        for count in result.accuracies:
            numbers[f"fewshot_{count}_top1"] = result.top1(count)
            if short := result.short_classes[count]:
                report(
                    f"{count} shots: {short} of {num_classes} classes have fewer training "
                    f"examples, of which all are taken."
                )
    if "knn" in kinds:
        votes = neighbours(train, test, num_classes, num_neighbours)
        numbers |= {"knn_top1": votes.top1, "knn_plain_top1": votes.plain_top1}
    if "linear" in kinds:
        linear = linear_probe(train, test, num_classes, seed=seed)
        numbers["linear_top1"] = linear.top1
        if not linear.converged:
            report("The linear probe ran out of iterations: its accuracy is a little too low.")
    return {name: round(numbers[name], 6) for name in names}
