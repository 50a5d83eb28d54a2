"""Which random changes a recipe asks for; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

_Crop = Literal["none", "shift", "inception"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes to the training images."""

    crop: _Crop = "none"
    """Geometry: as in evaluation, moved by a few pixels, or a random resized crop (Szegedy et al.,
    2015)."""

    crop_area: tuple[float, float] = (0.05, 1.0)
    """Smallest and largest share of the image that an inception crop keeps."""

    shift_pixels: int = 1
    """Most pixels that "shift" moves the image by, in each direction."""

    flip: bool = False
    """Mirror left and right, half of the time."""

    randaugment_layers: int = 0
    """Operations of RandAugment in a row (Cubuk et al., 2020); 0 for none."""

    randaugment_magnitude: float = 10.0
    """Strength of RandAugment; above 10 overshoots on purpose, as in big_vision."""

    mixup: float = 0.0
    """Beta parameter of mixup (Zhang et al., 2018); 0 for none."""

    def __post_init__(self) -> None:
        if self.crop not in get_args(_Crop):
            raise ValueError(
                f"augmentation.crop must be one of {', '.join(get_args(_Crop))}, not {self.crop!r}."
            )
        area = self.crop_area
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(
                f"augmentation.crop_area must be 0 < smallest <= largest <= 1, not {area}."
            )
        for name in ("shift_pixels", "randaugment_layers", "randaugment_magnitude", "mixup"):
            value = getattr(self, name)
            if value < 0 or not math.isfinite(value):
                raise ValueError(f"augmentation.{name} must be 0 or more, not {value}.")
