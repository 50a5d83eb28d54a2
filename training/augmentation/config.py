"""Which random changes a recipe asks for; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args

_Crop = Literal["none", "shift", "inception", "resize_small", "resize_squash", "simple_random"]
_Kind = Literal["google", "timm"]
_MixupKind = Literal["big_vision", "timm"]
_ErasingMode = Literal["pixel", "const"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "crop": get_args(_Crop),
    "randaugment_kind": get_args(_Kind),
    "erasing_mode": get_args(_ErasingMode),
    "mixup_kind": get_args(_MixupKind),
}
_AT_LEAST_ZERO = (
    "shift_pixels", "randaugment_layers", "randaugment_magnitude", "randaugment_std",
    "augmix_width", "augmix_depth", "augmix_severity", "color_jitter", "mixup", "cutmix",
)  # fmt: skip
_SHARES = ("random_erasing", "mix_prob", "mix_switch_prob")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes to the training images."""

    crop: _Crop = "none"
    """Geometry: as in evaluation ("none"), that moved by a few pixels ("shift"), a random resized
    crop (Szegedy et al., 2015), or a crop of the input's size out of an image whose smaller side
    has `resize_size` (big_vision), whose two sides have it (vision_transformer), or whose smaller
    side has the input's size, reflected by 4 pixels around it (DeiT III)."""

    crop_area: tuple[float, float] = (0.05, 1.0)
    """Smallest and largest share of the image that an inception crop keeps."""

    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of width to height of an inception crop."""

    resize_size: int | None = None
    """Side of the image that "resize_small" and "resize_squash" crop from; 8/7 of the input's by
    default, as 448 for 384 in fine-tuning."""

    shift_pixels: int = 1
    """Most pixels that "shift" moves the image by, in each direction."""

    flip: bool = False
    """Mirror left and right, half of the time."""

    repeats: int = 1
    """Copies of each image in an epoch, each changed differently (Hoffer et al., 2020; DeiT: 3)."""

    three_augment: bool = False
    """One of grey, solarised and blurred for each image (Touvron et al., 2022, DeiT III)."""

    randaugment_layers: int = 0
    """Operations of RandAugment in a row (Cubuk et al., 2020); 0 for none."""

    randaugment_magnitude: float = 10.0
    """Strength of RandAugment; above 10 overshoots on purpose, as in big_vision."""

    randaugment_kind: _Kind = "google"
    """Whose operations: Google's sixteen, or timm's fifteen, each left out half of the time."""

    randaugment_std: float = 0.0
    """Standard deviation of the strength of each of timm's operations, held in 0 ... 10."""

    randaugment_increasing: bool = False
    """Let a higher strength change more in each of timm's operations (its "inc1")."""

    augmix_width: int = 0
    """Chains of AugMix (Hendrycks et al., 2020), after timm; 0 for none, 3 in the paper."""

    augmix_depth: int = 0
    """Operations in a chain of AugMix; 0 draws 1 to 3 for each chain."""

    augmix_severity: float = 3.0
    """Most strength of AugMix's operations, up to 10; each draws its own from 0 on."""

    color_jitter: float = 0.0
    """Most relative change of brightness, contrast and saturation, in a random order."""

    random_erasing: float = 0.0
    """Chance that a box of the image is erased after normalisation (Zhong et al., 2020)."""

    erasing_mode: _ErasingMode = "pixel"
    """What an erased box becomes: normal noise, or zeros."""

    mixup: float = 0.0
    """Beta parameter of mixup (Zhang et al., 2018); 0 for none."""

    mixup_kind: _MixupKind = "big_vision"
    """The larger share for the image itself and its neighbour as partner (big_vision), or any
    share, in pairs, with `cutmix`, `mix_prob` and `mix_switch_prob` (timm)."""

    cutmix: float = 0.0
    """Beta parameter of CutMix (Yun et al., 2019), with mixup_kind "timm"; 0 for none."""

    mix_prob: float = 1.0
    """Chance that a batch is mixed at all, with mixup_kind "timm"."""

    mix_switch_prob: float = 0.5
    """Chance of CutMix rather than mixup, where both are on."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise self._error(name, f"one of {', '.join(choices)}")
        for name in _AT_LEAST_ZERO:
            if not (0 <= getattr(self, name) < math.inf):
                raise self._error(name, "0 or more")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise self._error(name, "from 0 to 1")
        area, ratio = self.crop_area, self.crop_ratio
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise self._error("crop_area", "0 < smallest <= largest <= 1")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
            raise self._error("crop_ratio", "0 < smallest <= largest")
        if self.resize_size is not None and self.resize_size < 1:
            raise self._error("resize_size", "positive")
        if self.repeats < 1:
            raise self._error("repeats", "1 or more")
        if self.augmix_severity > 10:
            raise self._error("augmix_severity", "at most 10")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        """Raise a ValueError for settings of which one would be without effect."""
        policies = ("three_augment", "randaugment_layers", "augmix_width")
        chosen = [f"augmentation.{name}" for name in policies if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(
                f"{' and '.join(chosen)} do not go together: each is a policy of its own, "
                "turn all but one off."
            )
        if self.randaugment_kind == "google":
            for name in ("randaugment_std", "randaugment_increasing"):
                self._needs(name, False, "randaugment_kind", "timm")
        elif self.randaugment_magnitude > 10:
            raise self._error("randaugment_magnitude", "at most 10 for the operations of timm")
        if self.mixup_kind == "big_vision":
            self._needs("cutmix", 0, "mixup_kind", "timm")
            self._needs("mix_prob", 1, "mixup_kind", "timm")
        if self.crop not in ("resize_small", "resize_squash"):
            self._needs("resize_size", None, "crop", "resize_small")

    def _needs(self, name: str, neutral: object, other: str, wanted: str) -> None:
        """Raise a ValueError if a field that only has an effect beside another is set."""
        value = getattr(self, name)
        if value != neutral:
            raise ValueError(
                f"augmentation.{name}={value!r} has no effect with augmentation.{other}="
                f"{getattr(self, other)!r}: set augmentation.{other} to {wanted!r}."
            )

    def _error(self, name: str, wanted: Any) -> ValueError:
        return ValueError(f"augmentation.{name} must be {wanted}, not {getattr(self, name)!r}.")
