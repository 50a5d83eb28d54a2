"""Convolutional stems of the hybrids: an image to the feature map that is cut into patches."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import keras


class StandardizedConv2D(keras.layers.Conv2D):
    """A convolution whose kernel is standardised for every output channel.

    "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization" (Qiao et
    al., 2019): `(w - mean) / (sqrt(variance + variance_epsilon) + std_epsilon)`.

    Args:
        filters: output channels.
        kernel_size: side of the kernel.
        variance_epsilon: 1e-8 in timm, 0 in the authors' JAX code. Default 0.
        std_epsilon: 1e-5 in the authors' JAX code, 0 in timm. Default 1e-5.
        **kwargs: of `keras.layers.Conv2D`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        variance_epsilon: float = 0.0,
        std_epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, **kwargs)
        self.variance_epsilon = variance_epsilon
        self.std_epsilon = std_epsilon

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The convolution with the standardised kernel."""
        weights = keras.ops.cast(kernel, "float32")
        mean, variance = keras.ops.moments(weights, axes=(0, 1, 2), keepdims=True)
        std = keras.ops.sqrt(variance + self.variance_epsilon) + self.std_epsilon
        weights = keras.ops.cast((weights - mean) / std, inputs.dtype)
        return super().convolution_op(inputs, weights)


class Stem(keras.layers.Layer, abc.ABC):
    """What the stems share: convolutions with their normalisations by name, and a stride.

    Args:
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.
    """

    stride = 1
    channels = 3

    def _add(self, name: str, channels: int, conv: Any, norm: Any) -> None:
        # Attributes, not nested lists: Keras saves no layer that lies two lists deep.
        setattr(self, f"{name}_conv", conv)
        setattr(self, f"{name}_norm", norm)
        conv.build((None, None, None, channels))
        norm.build((None, None, None, conv.filters))

    def _apply(self, name: str, x: Any, training: bool | None = None) -> Any:
        x, norm = getattr(self, f"{name}_conv")(x), getattr(self, f"{name}_norm")
        if isinstance(norm, keras.layers.BatchNormalization):
            return norm(x, training=training)
        return norm(x)

    @abc.abstractmethod
    def convolutions(self, num_channels: int) -> Iterator[tuple[int, int, int, int]]:
        """Every convolution: channels in and out, side of its kernel, pixels per cell it makes."""

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, H, W, C] -> [B, H / stride, W / stride, channels], rounded up."""
        rows, columns = (
            None if side is None else -(-side // self.stride) for side in input_shape[1:3]
        )
        return (input_shape[0], rows, columns, self.channels)


@keras.saving.register_keras_serializable("keras_vit")
class ResNetV2Stem(Stem):
    """The ResNet of the paper's hybrids: standardised kernels and group normalisation.

    Section 3.1 of Dosovitskiy et al. (2021), after "Big Transfer" (Kolesnikov et al., 2020), with
    the activation after each normalisation.

    Args:
        depths: number of units in each stage; empty for the root alone.
        width: channels of the root. Default 64.
        variance_epsilon: see `StandardizedConv2D`. Default 0.
        std_epsilon: see `StandardizedConv2D`. Default 1e-5.
        norm_epsilon: of the group normalisations. Default 1e-6, as in the authors' code.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> ResNetV2Stem(depths=(1,))(keras.ops.zeros([1, 32, 32, 3])).shape
        TensorShape([1, 8, 8, 256])
    """

    def __init__(
        self,
        depths: Sequence[int],
        width: int = 64,
        variance_epsilon: float = 0.0,
        std_epsilon: float = 1e-5,
        norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._arguments: dict[str, Any] = {
            "depths": tuple(depths),
            "width": width,
            "variance_epsilon": variance_epsilon,
            "std_epsilon": std_epsilon,
            "norm_epsilon": norm_epsilon,
        }
        self.stride = 4 * 2 ** max(len(depths) - 1, 0)
        self.channels = width * 4 * 2 ** (len(depths) - 1) if depths else width

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the root and the units for images [B, H, W, C]."""
        width = self._arguments["width"]
        self._conv_norm("root", input_shape[-1], width, 7, 2)
        for name, channels, middle, stride, first in _units(self._arguments["depths"], width):
            self._conv_norm(f"{name}_1", channels, middle, 1, 1)
            self._conv_norm(f"{name}_2", middle, middle, 3, stride)
            self._conv_norm(f"{name}_3", middle, 4 * middle, 1, 1)
            if first:
                self._conv_norm(f"{name}_proj", channels, 4 * middle, 1, stride)

    def _conv_norm(self, name: str, channels: int, filters: int, size: int, stride: int) -> None:
        a = self._arguments
        conv = StandardizedConv2D(
            filters,
            size,
            variance_epsilon=a["variance_epsilon"],
            std_epsilon=a["std_epsilon"],
            strides=stride,
            padding="same",
            use_bias=False,
            data_format="channels_last",
            kernel_initializer="lecun_normal",
            dtype=self.dtype_policy,
            name=f"{name}_conv",
        )
        norm = keras.layers.GroupNormalization(
            min(32, filters),
            epsilon=a["norm_epsilon"],
            dtype=self.dtype_policy,
            name=f"{name}_norm",
        )
        self._add(name, channels, conv, norm)

    def call(self, images: Any) -> Any:
        """Images [B, H, W, C] -> features [B, H / stride, W / stride, channels]."""
        x = keras.ops.relu(self._apply("root", images))
        x = keras.ops.max_pool(x, 3, 2, padding="same")
        for name, *_, first in _units(self._arguments["depths"], self._arguments["width"]):
            y = keras.ops.relu(self._apply(f"{name}_1", x))
            y = keras.ops.relu(self._apply(f"{name}_2", y))
            y = self._apply(f"{name}_3", y)
            x = keras.ops.relu(y + (self._apply(f"{name}_proj", x) if first else x))
        return x

    def convolutions(self, num_channels: int) -> Iterator[tuple[int, int, int, int]]:
        """See `Stem.convolutions`."""
        width = self._arguments["width"]
        yield num_channels, width, 7, 2
        yield from _unit_convolutions(self._arguments["depths"], width)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), **self._arguments}


@keras.saving.register_keras_serializable("keras_vit")
class ResNetDStem(Stem):
    """ResNet-D with batch normalisation, as timm's hybrids have it.

    "Bag of Tricks for Image Classification with Convolutional Neural Networks" (He et al., 2019),
    figure 2: three 3 x 3 convolutions at the start, average pooling before each projection.

    Args:
        depths: number of units in each stage.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> ResNetDStem(depths=(1,))(keras.ops.zeros([1, 32, 32, 3])).shape
        TensorShape([1, 8, 8, 256])
    """

    def __init__(self, depths: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depths = tuple(depths)
        self.stride = 4 * 2 ** (len(depths) - 1)
        self.channels = 256 * 2 ** (len(depths) - 1)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the root and the units for images [B, H, W, C]."""
        self._conv_norm("root_1", input_shape[-1], 32, 3, 2)
        self._conv_norm("root_2", 32, 32, 3, 1)
        self._conv_norm("root_3", 32, 64, 3, 1)
        for name, channels, middle, stride, first in _units(self.depths, 64):
            self._conv_norm(f"{name}_1", channels, middle, 1, 1)
            self._conv_norm(f"{name}_2", middle, middle, 3, stride)
            self._conv_norm(f"{name}_3", middle, 4 * middle, 1, 1)
            if first:
                self._conv_norm(f"{name}_proj", channels, 4 * middle, 1, 1)

    def _conv_norm(self, name: str, channels: int, filters: int, size: int, stride: int) -> None:
        conv = keras.layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="valid",  # `_pad` comes before: PyTorch pads both sides alike
            use_bias=False,
            data_format="channels_last",
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name=f"{name}_conv",
        )
        norm = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name=f"{name}_norm"
        )
        self._add(name, channels, conv, norm)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Images [B, H, W, C] -> features [B, H / stride, W / stride, channels]."""
        x = images
        for name in ("root_1", "root_2", "root_3"):
            x = keras.ops.relu(self._apply(name, _pad(x), training))
        x = keras.ops.max_pool(_pad(x), 3, 2)  # after a relu, a zero is as good as no pixel
        for name, _, _, stride, first in _units(self.depths, 64):
            y = keras.ops.relu(self._apply(f"{name}_1", x, training))
            y = keras.ops.relu(self._apply(f"{name}_2", _pad(y), training))
            y = self._apply(f"{name}_3", y, training)
            if first:
                pooled = keras.ops.average_pool(x, 2, 2, padding="same") if stride == 2 else x
                x = self._apply(f"{name}_proj", pooled, training)
            x = keras.ops.relu(y + x)
        return x

    def convolutions(self, num_channels: int) -> Iterator[tuple[int, int, int, int]]:
        """See `Stem.convolutions`."""
        for channels, filters in ((num_channels, 32), (32, 32), (32, 64)):
            yield channels, filters, 3, 2
        yield from _unit_convolutions(self.depths, 64)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "depths": self.depths}


@keras.saving.register_keras_serializable("keras_vit")
class ConvStem(Stem):
    """Convolutions that do not overlap, each with batch normalisation and GELU.

    The start of MobileCLIP's image encoder (Vasu et al., 2024).

    Args:
        filters: output channels of each convolution.
        strides: its stride, which is also the side of its kernel.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Example:
        >>> ConvStem(filters=(8, 16), strides=(4, 2))(keras.ops.zeros([1, 32, 32, 3])).shape
        TensorShape([1, 4, 4, 16])
    """

    def __init__(self, filters: Sequence[int], strides: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._arguments: dict[str, Any] = {"filters": tuple(filters), "strides": tuple(strides)}
        self.stride = 1
        for stride in strides:
            self.stride *= stride
        self.channels = tuple(filters)[-1]

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the convolutions for images [B, H, W, C]."""
        channels = input_shape[-1]
        sizes = zip(self._arguments["filters"], self._arguments["strides"], strict=True)
        for index, (filters, stride) in enumerate(sizes):
            conv = keras.layers.Conv2D(
                filters,
                stride,
                strides=stride,
                use_bias=False,
                data_format="channels_last",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
                name=f"unit{index + 1}_conv",
            )
            norm = keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name=f"unit{index + 1}_norm"
            )
            self._add(f"unit{index + 1}", channels, conv, norm)
            channels = filters

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Images [B, H, W, C] -> features [B, H / stride, W / stride, channels]."""
        x = images
        for index in range(len(self._arguments["filters"])):
            x = self._apply(f"unit{index + 1}", x, training)
            x = keras.ops.gelu(x, approximate=False)
        return x

    def convolutions(self, num_channels: int) -> Iterator[tuple[int, int, int, int]]:
        """See `Stem.convolutions`."""
        channels, shrink = num_channels, 1
        sizes = zip(self._arguments["filters"], self._arguments["strides"], strict=True)
        for filters, stride in sizes:
            shrink *= stride
            yield channels, filters, stride, shrink
            channels = filters

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), **self._arguments}


STEMS = {"resnetv2": ResNetV2Stem, "resnetd": ResNetDStem, "conv": ConvStem}


def _units(depths: Sequence[int], width: int) -> Iterator[tuple[str, int, int, int, bool]]:
    """The units of a ResNet: name, channels in, channels inside, stride, first of its stage."""
    channels = width
    for stage, depth in enumerate(depths):
        middle = width * 2**stage
        for index in range(depth):
            stride = 2 if stage and not index else 1
            yield f"stage{stage + 1}_unit{index + 1}", channels, middle, stride, not index
            channels = 4 * middle


def _unit_convolutions(depths: Sequence[int], width: int) -> Iterator[tuple[int, int, int, int]]:
    """The convolutions of a ResNet's units, as `Stem.convolutions` has them."""
    shrink = 4
    for _, channels, middle, stride, first in _units(depths, width):
        yield channels, middle, 1, shrink
        shrink *= stride
        yield middle, middle, 3, shrink
        yield middle, 4 * middle, 1, shrink
        if first:
            yield channels, 4 * middle, 1, shrink


def _pad(x: Any) -> Any:
    """One row and column of zeros on every side of [B, H, W, C]."""
    return keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
