"""What turns an encoded image into the model's input: one spec, one function, used everywhere.

Training, evaluation and the served graph all call the functions of this file, so they cannot
drift apart. A model carries its `Preprocessing` in its config.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_vit.decoding import decode_image

# Names of the field -> kernels of TensorFlow's ScaleAndTranslate. "keyscubic" is the cubic with
# a = -0.5 that PIL and torchvision use.
_KERNELS = {
    "bilinear": "triangle",
    "bicubic": "keyscubic",
    "lanczos3": "lanczos3",
    "box": "box",
    "nearest": "box",  # that never widens
}
_RESIZE_MODES = ("crop", "squash", "pad")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform of a model: encoded bytes to a normalised float image.

    An image is decoded to RGB, resized (and cropped) to `image_size`, scaled to [0, 1] and
    normalised as `(x - mean) / std`.

    Args:
        image_size: height and width of the model's input, an int or a pair. Default 224.
        resize_mode: "crop" keeps the aspect ratio: the image is resized until it covers
            `image_size / crop_fraction`, then the centre is cut out (as timm and torchvision do).
            "squash" resizes each side to `image_size / crop_fraction` by itself before that cut;
            with a `crop_fraction` of 1 that is the original ViT evaluation.
            "pad" keeps the aspect ratio and resizes until the image fits into
            `image_size / crop_fraction`; what is then left of `image_size` gets the colour `mean`
            (timm calls it "border"). Default "crop".
        crop_fraction: share of the resized image that the centre crop keeps, in (0, 1].
            Default 0.9.
        interpolation: "bilinear", "bicubic", "lanczos3", "box" or "nearest". Default "bicubic".
        antialias: whether the kernel widens when shrinking, as PIL does. Default True.
        mean: per-channel mean in units of [0, 1]. Default (0.5, 0.5, 0.5).
        std: per-channel standard deviation in units of [0, 1], positive. Default
            (0.5, 0.5, 0.5): with the default mean the output range is [-1, 1].
        max_pixels: an image whose header announces more pixels is refused before it is decoded.
            Default 50 million.
        recover_truncated: whether a JPEG that is cut short is decoded as far as it goes, instead
            of being refused. Default False.

    Raises:
        ValueError: if a field is out of its range; the message names the field.

    Example:
        >>> spec = Preprocessing(image_size=32, resize_mode="squash")
        >>> image_bytes = tf.io.encode_png(tf.zeros([8, 8, 3], tf.uint8))
        >>> spec(image_bytes).shape
        TensorShape([32, 32, 3])
    """

    image_size: int | tuple[int, int] = (224, 224)
    resize_mode: str = "crop"
    crop_fraction: float = 0.9
    interpolation: str = "bicubic"
    antialias: bool = True
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_pixels: int = 50_000_000
    recover_truncated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", size_pair(self.image_size, "image_size"))
        for field in ("mean", "std"):
            value = tuple(float(v) for v in getattr(self, field))
            if len(value) != 3 or not all(math.isfinite(v) for v in value):
                raise ValueError(
                    f"Preprocessing.{field} must be three finite numbers, one for each of the "
                    f"red, green and blue channels, not {getattr(self, field)!r}."
                )
            object.__setattr__(self, field, value)
        if min(self.std) <= 0:
            raise ValueError(f"Preprocessing.std must be positive, not {self.std}.")
        if self.resize_mode not in _RESIZE_MODES:
            raise ValueError(
                f"Preprocessing.resize_mode must be one of {_RESIZE_MODES}, "
                f"not {self.resize_mode!r}."
            )
        if self.interpolation not in _KERNELS:
            raise ValueError(
                f"Preprocessing.interpolation must be one of {sorted(_KERNELS)}, "
                f"not {self.interpolation!r}."
            )
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(
                f"Preprocessing.crop_fraction must be above 0 and at most 1, "
                f"not {self.crop_fraction!r}."
            )
        if self.max_pixels < 1:
            raise ValueError(f"Preprocessing.max_pixels must be positive, not {self.max_pixels!r}.")

    @classmethod
    def from_value_range(cls, low: float, high: float, **fields: Any) -> Preprocessing:
        """A spec whose output covers [low, high] instead of being given by mean and std.

        Args:
            low: what a black pixel becomes.
            high: what a white pixel becomes, above `low`.
            **fields: the other fields of `Preprocessing`.

        Returns:
            A `Preprocessing` with `mean = -low / (high - low)` and `std = 1 / (high - low)`.

        Raises:
            ValueError: if `high` is not above `low`.

        Example:
            >>> Preprocessing.from_value_range(-1, 1).mean
            (0.5, 0.5, 0.5)
        """
        if high <= low:
            raise ValueError(f"value range: high must be above low, not low={low}, high={high}.")
        span = high - low
        return cls(mean=(-low / span,) * 3, std=(1 / span,) * 3, **fields)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Shape of one image as the model takes it: (height, width, 3)."""
        return (*size_pair(self.image_size, "image_size"), 3)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any field: what a client can insist on."""
        text = json.dumps(self.get_config(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def replace(self, **fields: Any) -> Preprocessing:
        """A copy with some fields changed, e.g. `spec.replace(image_size=384)`."""
        return dataclasses.replace(self, **fields)

    def get_config(self) -> dict[str, Any]:
        """The fields as plain JSON values; `Preprocessing.from_config` is the way back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Preprocessing:
        """The spec that `get_config` described."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(config) - known):
            raise ValueError(
                f"Preprocessing does not know the fields {unknown}; it knows {sorted(known)}."
            )
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
        }
        return cls(**fields)

    def __call__(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Encoded bytes to the model's input.

        Args:
            image_bytes: string scalar, an encoded JPEG, PNG, GIF (first frame) or BMP.

        Returns:
            float32 [H, W, 3], normalised, ready for the model once batched.

        Raises:
            tf.errors.InvalidArgumentError: if the bytes are not such an image, are cut short, or
                announce more than `max_pixels` pixels.

        Example:
            >>> spec = Preprocessing(image_size=16)
            >>> spec(tf.io.encode_jpeg(tf.zeros([20, 30, 3], tf.uint8))).shape
            TensorShape([16, 16, 3])
        """
        return self.from_pixels(decode_image(image_bytes, self.max_pixels, self.recover_truncated))

    def from_pixels(self, pixels: tf.Tensor) -> tf.Tensor:
        """Decoded pixels of any size to the model's input.

        Args:
            pixels: uint8 or float in [0, 255], [h, w, 3] or [N, h, w, 3].

        Returns:
            float32 [H, W, 3] or [N, H, W, 3], normalised.

        Example:
            >>> Preprocessing(image_size=16).from_pixels(tf.zeros([2, 20, 30, 3])).shape
            TensorShape([2, 16, 16, 3])
        """
        return self.normalize(self.resize(pixels))

    def resize(self, pixels: tf.Tensor) -> tf.Tensor:
        """The resize and the crop alone.

        Args:
            pixels: uint8 or float in [0, 255], [h, w, 3] or [N, h, w, 3].

        Returns:
            float32 in [0, 255], [H, W, 3] or [N, H, W, 3].

        Example:
            >>> Preprocessing(image_size=16).resize(tf.zeros([20, 30, 3])).shape
            TensorShape([16, 16, 3])
        """
        pixels = tf.convert_to_tensor(pixels)
        if pixels.shape.rank == 3:
            return self.resize(pixels[None])[0]
        height, width, _ = self.output_shape
        shape = tf.shape(pixels)
        resized_size, offset = self._resize_plan(shape[1], shape[2])

        def resized() -> tf.Tensor:
            part = self.resize_part(pixels, resized_size, offset)
            return self._pad(part, resized_size, offset) if self.resize_mode == "pad" else part

        # Pixels that have the wanted size already stay as they are, as in PIL.
        target = tf.constant([height, width])
        as_given = tf.reduce_all(tf.equal(shape[1:3], target) & tf.equal(resized_size, target))
        pixels_or_resized = tf.cond(as_given, lambda: tf.cast(pixels, tf.float32), resized)
        return tf.ensure_shape(pixels_or_resized, [None, height, width, pixels.shape[-1]])

    def resize_part(
        self, pixels: tf.Tensor, resized_size: tf.Tensor, offset: tf.Tensor
    ) -> tf.Tensor:
        """A part, of the model's size, of the image in another size; nothing else is computed.

        Args:
            pixels: uint8 or float in [0, 255], [N, h, w, 3].
            resized_size: height and width of the whole image after the resize, int32 [2].
            offset: row and column in it where the part begins, int32 [2].

        Returns:
            float32 in [0, 255], [N, H, W, 3].

        Example:
            >>> preprocessing = Preprocessing(image_size=2)
            >>> image = tf.reshape(tf.range(16.0), [1, 4, 4, 1])
            >>> preprocessing.resize_part(image, [4, 4], [1, 2])[0, :, :, 0].numpy()
            array([[ 6.,  7.],
                   [10., 11.]], dtype=float32)
        """
        height, width, _ = self.output_shape
        # PIL takes the later of two pixels that are equally near; the box would mix them.
        tie = 1e-4 if _KERNELS[self.interpolation] == "box" else 0.0
        part = tf.raw_ops.ScaleAndTranslate(
            images=pixels,  # it takes bytes as they are: no copy of four times the size
            size=[height, width],
            scale=tf.cast(resized_size, tf.float32) / tf.cast(tf.shape(pixels)[1:3], tf.float32),
            translation=-tf.cast(offset, tf.float32) - tie,
            kernel_type=_KERNELS[self.interpolation],
            antialias=self.antialias and self.interpolation != "nearest",
        )
        # Cubic and Lanczos kernels overshoot; PIL clips at the same place.
        return tf.clip_by_value(part, 0.0, 255.0)

    def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels in [0, 255] to `(pixels / 255 - mean) / std`, float32, any leading shape."""
        scale = [1 / (255 * s) for s in self.std]
        shift = [m / s for m, s in zip(self.mean, self.std, strict=True)]
        pixels = tf.cast(pixels, tf.float32)
        width = pixels.shape[-2]
        if width is None:
            return pixels * tf.constant(scale) - tf.constant(shift)
        # Over whole rows: an inner axis of three channels is more than ten times as slow.
        shape = tf.shape(pixels)
        rows = tf.reshape(pixels, tf.concat([shape[:-2], [width * len(scale)]], axis=0))
        rows = rows * tf.constant(scale * width) - tf.constant(shift * width)
        return tf.ensure_shape(tf.reshape(rows, shape), pixels.shape)

    def _resize_plan(self, height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Size of the resized image and the top-left corner of the crop, int32 [2] each."""
        target = self.output_shape[:2]
        cover = [math.floor(side / self.crop_fraction) for side in target]
        if self.resize_mode == "squash":
            resized = tf.constant(cover)
        else:
            # In integers, so the plan equals PIL's pipelines for every size: torchvision rounds
            # the side that is not met exactly down; timm, whose own resize takes over where the
            # target is no square or padded, rounds it to the nearest.
            pad = self.resize_mode == "pad"
            nearest = pad or cover[0] != cover[1]

            def scaled(side: tf.Tensor, to: int, of: tf.Tensor) -> tf.Tensor:
                product, of = to * side, tf.maximum(of, 1)
                down = product // of
                up = 2 * (product - down * of) + down % 2 > of  # halves to the even number
                return down + tf.cast(up, tf.int32) if nearest else down

            by_height = tf.stack([cover[0], scaled(width, cover[0], height)])
            by_width = tf.stack([scaled(height, cover[1], width), cover[1]])
            wide, tall = cover[0] * width, cover[1] * height
            height_binds = wide <= tall if pad else wide >= tall
            resized = tf.maximum(tf.where(height_binds, by_height, by_width), 1)
        surplus = resized - tf.constant(target)
        # What is cut off is rounded to the even number, what is padded down.
        cut = tf.cast(tf.round(tf.cast(surplus, tf.float32) / 2), tf.int32)
        return resized, tf.where(surplus >= 0, cut, -(-surplus // 2))

    def _pad(self, pixels: tf.Tensor, resized: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """Pixels [N, H, W, 3] with the colour `mean` where the resized image does not reach."""
        height, width, _ = self.output_shape
        rows = tf.range(height) + offset[0]  # in the resized image
        columns = tf.range(width) + offset[1]
        inside = ((rows >= 0) & (rows < resized[0]))[:, None] & (
            (columns >= 0) & (columns < resized[1])
        )  # [H, W]
        fill = tf.constant([float(round(255 * mean)) for mean in self.mean])
        return tf.where(inside[..., None], pixels, fill)


def size_pair(size: int | tuple[int, int] | list[int], name: str) -> tuple[int, int]:
    """An image or patch size as (height, width).

    Args:
        size: a positive int for a square, or a pair of positive ints.
        name: what the size is of, for the error message.

    Returns:
        (height, width).

    Raises:
        ValueError: if `size` is neither.

    Example:
        >>> size_pair(16, "patch_size")
        (16, 16)
    """
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, numbers.Integral) and side > 0 for side in pair):
        raise ValueError(
            f"{name} must be a positive int or a pair (height, width) of them, not {size!r}."
        )
    return int(pair[0]), int(pair[1])
