"""scikit-learn's handwritten digits as a TFDS data set: real images that need no download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_TEST_EXAMPLES = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """1797 digits of 8 x 8 pixels, 1437 to train on and 360 to test.

    They are the test set of the UCI ML repository's "Optical Recognition of Handwritten Digits"
    (Alpaydin & Kaynak, 1998) as scikit-learn carries it; the split is stratified and fixed.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing is downloaded
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(
            np.arange(len(digits.target)),
            test_size=_TEST_EXAMPLES,
            stratify=digits.target,
            random_state=0,
        )
        # 17 grey levels, 0 ... 16, become 0 ... 255.
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # [N, 8, 8, 1]
        return {
            "train": self._generate_examples(pixels, digits.target, np.sort(train)),
            "test": self._generate_examples(pixels, digits.target, np.sort(test)),
        }

    def _generate_examples(
        self, pixels: np.ndarray, targets: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for index in indices.tolist():
            yield index, {"image": pixels[index], "label": int(targets[index])}
