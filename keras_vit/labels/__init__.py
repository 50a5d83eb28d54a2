"""Names of the classes of ImageNet, in the order of the outputs of published checkpoints.

`imagenet_1k.txt` (ILSVRC 2012) and `imagenet_21k.txt` (the 21,843 classes in the order of Google's
checkpoints) hold one line for each class: the words of its WordNet synset, as timm lists them.
"""

from __future__ import annotations

from importlib import resources

_FILES = {1000: "imagenet_1k.txt", 21_843: "imagenet_21k.txt"}


def imagenet_labels(num_classes: int) -> tuple[str, ...] | None:
    """The class names of ImageNet.

    Args:
        num_classes: 1000 (ILSVRC 2012) or 21,843 (ImageNet-21k as Google has it).

    Returns:
        One name for each class, or None for any other number.

    Example:
        >>> imagenet_labels(1000)[0]
        'tench, Tinca tinca'
    """
    if num_classes not in _FILES:
        return None
    file = resources.files(__name__).joinpath(_FILES[num_classes])
    return tuple(file.read_text(encoding="utf-8").splitlines())
