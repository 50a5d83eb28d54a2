"""The Vision Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.layers import (
    ClassToken,
    EncoderBlock,
    PatchEmbedding,
    PositionEmbedding,
    TokenPooling,
)
from keras_vit.layers.attention import check_num_heads
from keras_vit.layers.patch_embedding import grid_size
from keras_vit.preprocessing import Preprocessing, size_pair


@keras.saving.register_keras_serializable("keras_vit")
class VisionTransformer(keras.Model):
    """The Vision Transformer of "An Image is Worth 16x16 Words" (Dosovitskiy et al., ICLR 2021).

    Images become patch tokens; a class token and positions join them; `depth` encoder blocks
    and a final norm follow; one pooled vector goes through an optional `representation_size` layer
    to the head. Initial values are those of the authors' JAX code.

    Args:
        image_size: height and width of the input, an int or a pair. Default 224.
        patch_size: height and width of a patch, an int or a pair. Default 16.
        hidden_dim: width of a token, D. Default 768.
        depth: number of encoder blocks. Default 12.
        num_heads: attention heads, a divisor of `hidden_dim`. Default 12.
        mlp_ratio: width inside the MLP over `hidden_dim`. Default 4.
        mlp_dim: that width itself; overrides `mlp_ratio`. Default None.
        num_classes: outputs of the head; 0 leaves the head out. Default 1000.
        num_channels: channels of the input. Default 3.
        class_token: whether a class token is put before the patches. Default True.
        position_embedding: "learned", "sincos2d" or "none". Default "learned".
        pooling: "token" (the class token) or "avg" (the mean of the patches). Default "token".
        representation_size: width of a tanh layer before the head; None leaves it out.
        qkv_bias: whether query, key and value have a bias. Default True.
        qk_scale: factor on the attention logits. Default None: `head_dim ** -0.5`.
        activation: "gelu" (exact) or "gelu_tanh" (the authors' approximation). Default "gelu".
        patch_bias: whether the patch projection has a bias. Default True.
        patch_norm: whether a layer normalisation follows that projection. Default False.
        dropout_rate: on the positions, after each attention projection and after each dense layer
            of an MLP, in [0, 1). Default 0.
        attention_dropout_rate: on the attention weights, in [0, 1). Default 0.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first,
            in [0, 1). Default 0.
        norm_epsilon: of every layer normalisation. Default 1e-6.
        preprocessing: the evaluation transform that goes with the weights, a `Preprocessing` or
            its config. Default None: `Preprocessing(image_size=image_size)`.
        labels: the class names in the order of the outputs, `num_classes` of them. Default None.
        dtype: dtype policy such as "mixed_bfloat16". Default None: the global policy. Under a
            mixed policy the head computes in float32.
        name: of the model. Default "vision_transformer".

    Call arguments:
        images: float [B, H, W, C], already normalised (see `preprocessing`).
        training: whether dropout and stochastic depth act. Default: Keras decides.

    Returns:
        Calling the model gives logits [B, num_classes], or the pooled representation
        [B, hidden_dim or representation_size] when `num_classes` is 0.

    Raises:
        ValueError: if the image is not a whole number of patches, `num_heads` does not divide
            `hidden_dim`, or another argument is out of its range.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=2, num_heads=2, num_classes=10)
        >>> model(keras.ops.zeros([1, 32, 32, 3])).shape
        TensorShape([1, 10])
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        hidden_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        mlp_dim: int | None = None,
        num_classes: int = 1000,
        num_channels: int = 3,
        class_token: bool = True,
        position_embedding: str = "learned",
        pooling: str = "token",
        representation_size: int | None = None,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        activation: str = "gelu",
        patch_bias: bool = True,
        patch_norm: bool = False,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_epsilon: float = 1e-6,
        preprocessing: Preprocessing | dict[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        dtype: Any = None,
        name: str = "vision_transformer",
    ) -> None:
        arguments = {key: value for key, value in locals().items() if key in _CONFIG_KEYS}
        image_size = size_pair(image_size, "image_size")
        patch_size = size_pair(patch_size, "patch_size")
        _check_sizes(
            hidden_dim=hidden_dim, depth=depth, num_heads=num_heads, num_channels=num_channels
        )
        _check_rates(
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
        )
        check_num_heads(hidden_dim, num_heads)
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 (no head) or more, not {num_classes}.")
        grid = grid_size(image_size, patch_size)
        mlp_dim = round(hidden_dim * mlp_ratio) if mlp_dim is None else mlp_dim
        policy = keras.dtype_policies.get(dtype)
        num_prefix_tokens = 1 if class_token else 0

        # === Layers ===
        patch_embedding = PatchEmbedding(
            hidden_dim,
            patch_size,
            use_bias=patch_bias,
            use_norm=patch_norm,
            norm_epsilon=norm_epsilon,
            dtype=policy,
            name="patch_embedding",
        )
        blocks = [
            EncoderBlock(
                num_heads,
                mlp_dim,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                activation=activation,
                dropout_rate=dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                drop_path_rate=drop_path_rate * index / max(depth - 1, 1),
                norm_epsilon=norm_epsilon,
                dtype=policy,
                name=f"block_{index:02d}",
            )
            for index in range(depth)
        ]

        # === Images to logits ===
        images = keras.Input((*image_size, num_channels), name="images")  # [B, H, W, C]
        x = patch_embedding(images)  # [B, N, D]
        if class_token:
            x = ClassToken(dtype=policy, name="class_token")(x)  # [B, 1 + N, D]
        if position_embedding != "none":
            x = PositionEmbedding(
                grid,
                position_embedding,
                num_prefix_tokens,
                dtype=policy,
                name="position_embedding",
            )(x)
        x = keras.layers.Dropout(dropout_rate, dtype=policy, name="position_dropout")(x)
        for block in blocks:
            x = block(x)
        x = keras.layers.LayerNormalization(epsilon=norm_epsilon, dtype=policy, name="norm")(x)
        x = TokenPooling(pooling, num_prefix_tokens, dtype=policy, name="pooling")(x)  # [B, D]
        if representation_size is not None:
            x = keras.layers.Dense(
                representation_size,
                activation="tanh",
                kernel_initializer="lecun_normal",
                dtype=policy,
                name="pre_logits",
            )(x)  # [B, representation_size]
        representation = x
        if num_classes:
            x = keras.layers.Dense(
                num_classes,
                kernel_initializer="zeros",  # as in the paper: training starts from no opinion
                dtype="float32" if policy.name.startswith("mixed") else policy,
                name="head",
            )(x)  # [B, num_classes]
        super().__init__(inputs=images, outputs=x, name=name)

        # === Config ===
        self._arguments = {**arguments, "image_size": image_size, "patch_size": patch_size}
        self._policy = policy
        self.image_size = image_size
        self.patch_size = patch_size
        self.grid = grid
        self.hidden_dim = hidden_dim
        self.num_classes = num_classes
        self.num_prefix_tokens = num_prefix_tokens
        self.blocks = blocks
        self._representation = representation
        self.preprocessing = preprocessing
        self.labels = labels

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Images [B, H, W, C] to logits [B, num_classes]; see the class."""
        # Checked before Keras does, whose message shows neither the sizes nor what to do.
        expected = (*self.image_size, self._arguments["num_channels"])
        given = tuple(getattr(images, "shape", (None, *expected)))
        if len(given) != 4:
            raise ValueError(
                f"The model takes a batch of images [B, H, W, C] = [B, {expected[0]}, "
                f"{expected[1]}, {expected[2]}], not an array of shape {list(given)}. "
                f"One image is a batch of one: images[None]."
            )
        if any(a != b for a, b in zip(given[1:], expected, strict=True) if a is not None):
            raise ValueError(
                f"The images are {given[1]} x {given[2]} x {given[3]} (height x width x channels), "
                f"but this model takes {expected[0]} x {expected[1]} x {expected[2]}: resize them "
                f"with `model.preprocessing`, or create the model with image_size={given[1:3]}."
            )
        return super().__call__(images, *args, **kwargs)

    @property
    def preprocessing(self) -> Preprocessing:
        """The evaluation transform that belongs to the weights; saved with the model."""
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing | dict[str, Any] | None) -> None:
        if value is None:
            value = Preprocessing(image_size=self.image_size)
        elif isinstance(value, dict):
            value = Preprocessing.from_config(value)
        if value.image_size != self.image_size:
            raise ValueError(
                f"The preprocessing makes images of {value.image_size}, but the model takes "
                f"{self.image_size}: use `preprocessing.replace(image_size={self.image_size})`."
            )
        self._preprocessing = value

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The class names in the order of the outputs, or None; saved with the model."""
        return self._labels

    @labels.setter
    def labels(self, value: Sequence[str] | None) -> None:
        if value is not None:
            value = tuple(str(label) for label in value)
            if len(value) != self.num_classes:
                raise ValueError(
                    f"{len(value)} labels were given for a model of {self.num_classes} classes: "
                    f"give one label for each output, in order."
                )
        self._labels = value

    def representation_model(self) -> keras.Model:
        """The same layers without the head.

        Returns:
            A `keras.Model` that shares the weights: images [B, H, W, C] -> the vector that the head
            sees, [B, hidden_dim or representation_size].

        Example:
            >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2)
            >>> model.representation_model()(keras.ops.zeros([1, 32, 32, 3])).shape
            TensorShape([1, 16])
        """
        return keras.Model(self.input, self._representation, name=f"{self.name}_representation")

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        targets: Sequence[str] = ("qkv", "projection"),
    ) -> None:
        """Freeze the model but for low-rank updates of some kernels, and the head.

        "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021). Saving the model
        writes the merged kernels.

        Args:
            rank: of the updates, at least 1.
            lora_alpha: the update is scaled by `lora_alpha / rank`. Default None: `rank`.
            targets: names of the dense layers inside the blocks, of "qkv", "projection", "fc1" and
                "fc2". Default the two of the attention.

        Raises:
            ValueError: if a target is unknown.

        Example:
            >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2)
            >>> model.enable_lora(rank=2)
            >>> len(model.trainable_variables)
            6
        """
        for layer in self.layers:
            if layer.name not in ("head", *(block.name for block in self.blocks)):
                layer.trainable = False
        for block in self.blocks:
            dense = {
                "qkv": block.attention.qkv,
                "projection": block.attention.projection,
                "fc1": block.mlp.fc1,
                "fc2": block.mlp.fc2,
            }
            if unknown := sorted(set(targets) - set(dense)):
                raise ValueError(f"LoRA targets {unknown} are unknown; choose from {list(dense)}.")
            for layer in (block.norm1, block.norm2, *dense.values()):
                layer.trainable = False
            for target in targets:
                dense[target].trainable = True
                dense[target].enable_lora(rank, lora_alpha=lora_alpha)
                if dense[target].bias is not None:
                    dense[target].bias.trainable = False

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with the preprocessing and the labels of now."""
        return {
            **self._arguments,
            "preprocessing": self.preprocessing.get_config(),
            "labels": None if self.labels is None else list(self.labels),
            "dtype": keras.dtype_policies.serialize(self._policy),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> VisionTransformer:
        """The model that `get_config` described, with fresh weights."""
        return cls(**config)


_CONFIG_KEYS = frozenset(
    VisionTransformer.__init__.__code__.co_varnames[
        1 : VisionTransformer.__init__.__code__.co_argcount
    ]
)


def _check_sizes(**sizes: int) -> None:
    for key, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive int, not {value!r}.")


def _check_rates(**rates: float) -> None:
    for key, value in rates.items():
        if not 0 <= value < 1:
            raise ValueError(f"{key} must be at least 0 and below 1, not {value!r}.")
