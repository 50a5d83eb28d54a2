"""The Vision Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.arguments import check_rates, check_sizes, make_stem, mlp_width, table_grid
from keras_vit.layers import (
    BLOCKS,
    AttentionPooling,
    PatchEmbedding,
    PositionEmbedding,
    PrefixTokens,
    TokenPooling,
    make_norm,
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

    The options beyond that paper make it the Vision Transformers of DeiT, DINOv2, CLIP, SigLIP, AIM
    and others; the variants in `keras_vit.variants` say which model has which.

    Args:
        image_size: height and width of the input, an int or a pair; None takes images of any size,
            with the positions resampled to each. Default 224.
        patch_size: height and width of a patch, an int or a pair; behind a stem, in cells of its
            feature map. Default 16.
        hidden_dim: width of a token, D. Default 768.
        depth: number of encoder blocks. Default 12.
        num_heads: attention heads, a divisor of `hidden_dim`. Default 12.
        mlp_ratio: width inside the MLP over `hidden_dim`. Default 4.
        mlp_dim: that width itself; overrides `mlp_ratio`. Default None.
        num_classes: outputs of the head; 0 leaves the head out. Default 1000.
        num_channels: channels of the input. Default 3.
        class_token: whether a class token is put before the patches. Default True.
        distillation_token: whether a distillation token follows it (DeiT). Default False.
        distillation_head: whether that token has a head of its own; the logits are the mean of the
            two. Default None: as `distillation_token`.
        register_tokens: number of register tokens after them. Default 0.
        position_embedding: "learned", "sincos2d" or "none". Default "learned".
        no_embed_class: whether only the patches have positions, not the tokens before them.
            Default False.
        position_resampling: how the positions fit another image size, see `keras_vit.resampling`.
            Default "bicubic_antialias".
        position_grid: rows and columns of the position table when `image_size` is None. Default
            None: those of a 224 x 224 image.
        pooling: "token" (the class token), "avg" (the mean of the patches), "max", "avgmax",
            "token_avg" (class token and mean, 2 D channels) or "map" (attention with a learned
            query). Default "token".
        pool_include_prefix: whether the pooling covers the tokens before the patches. Default
            False.
        representation_size: width of a tanh layer before the head; None leaves it out.
        block: "pre_norm", "post_norm", "parallel" or "twin", see `keras_vit.layers`. Default
            "pre_norm".
        attention: "softmax" or "differential". Default "softmax".
        qkv_bias: whether query, key and value have a bias. Default True.
        qk_scale: factor on the attention logits. Default None: `head_dim ** -0.5`.
        qk_norm: whether queries and keys are normalised. Default False.
        scale_attn_norm: whether a norm precedes the attention's projection. Default False.
        scale_mlp_norm: whether a norm precedes the MLP's second layer. Default False.
        proj_bias: whether the attention's projection and the MLP have biases. Default True.
        gated_mlp: whether the MLP is a gated one. Default False.
        activation: "gelu" (exact), "gelu_tanh" (the authors' approximation), "quick_gelu" or
            "silu". Default "gelu".
        init_values: start of the layer scales; None leaves them out. Default None.
        stem: a convolutional stem before the patches, {"type": "resnetv2", "resnetd" or "conv",
            and the arguments of that layer}. Default None.
        patch_bias: whether the patch projection has a bias. Default True.
        allow_remainder: whether an image may be larger than a whole number of patches; the pixels
            left over at the right and below are not seen. Default False.
        patch_norm: whether a normalisation follows that projection. Default False.
        pre_norm: whether a norm precedes the first block (CLIP). Default False.
        final_norm: whether a norm follows the last block. Default True.
        fc_norm: whether that norm comes after the pooling. Default False.
        norm: of all normalisations, "layer_norm" or "rms_norm". Default "layer_norm".
        norm_epsilon: of every normalisation. Default 1e-6.
        dropout_rate: on the positions, after each attention projection and after each dense layer
            of an MLP, in [0, 1). Default 0.
        attention_dropout_rate: on the attention weights, in [0, 1). Default 0.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first,
            in [0, 1). Default 0.
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
        image_size: int | tuple[int, int] | None = 224,
        patch_size: int | tuple[int, int] = 16,
        hidden_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        mlp_dim: int | None = None,
        num_classes: int = 1000,
        num_channels: int = 3,
        class_token: bool = True,
        distillation_token: bool = False,
        distillation_head: bool | None = None,
        register_tokens: int = 0,
        position_embedding: str = "learned",
        no_embed_class: bool = False,
        position_resampling: str = "bicubic_antialias",
        position_grid: tuple[int, int] | None = None,
        pooling: str = "token",
        pool_include_prefix: bool = False,
        representation_size: int | None = None,
        block: str = "pre_norm",
        attention: str = "softmax",
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        scale_attn_norm: bool = False,
        scale_mlp_norm: bool = False,
        proj_bias: bool = True,
        gated_mlp: bool = False,
        activation: str = "gelu",
        init_values: float | None = None,
        stem: dict[str, Any] | None = None,
        patch_bias: bool = True,
        patch_norm: bool = False,
        allow_remainder: bool = False,
        pre_norm: bool = False,
        final_norm: bool = True,
        fc_norm: bool = False,
        norm: str = "layer_norm",
        norm_epsilon: float = 1e-6,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        preprocessing: Preprocessing | dict[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        dtype: Any = None,
        name: str = "vision_transformer",
    ) -> None:
        arguments = {key: value for key, value in locals().items() if key in _CONFIG_KEYS}
        if image_size is not None:
            image_size = size_pair(image_size, "image_size")
        patch_size = size_pair(patch_size, "patch_size")
        check_sizes(
            hidden_dim=hidden_dim, depth=depth, num_heads=num_heads, num_channels=num_channels
        )
        check_rates(
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
        )
        check_num_heads(hidden_dim, num_heads)
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 (no head) or more, not {num_classes}.")
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {sorted(BLOCKS)}, not {block!r}.")
        if distillation_token and (pooling != "token" or not class_token):
            raise ValueError("distillation_token=True needs class_token=True and pooling='token'.")
        policy = keras.dtype_policies.get(dtype)
        mlp_dim = mlp_width(arguments)
        if distillation_head is None:
            distillation_head = distillation_token

        # === Layers ===
        stem_layer = make_stem(stem, policy)
        stride = stem_layer.stride if stem_layer else 1
        grid = table_grid(image_size, patch_size, stride, position_grid, allow_remainder)
        patch_embedding = PatchEmbedding(
            hidden_dim,
            patch_size,
            use_bias=patch_bias,
            use_norm=patch_norm,
            norm=norm,
            norm_epsilon=norm_epsilon,
            allow_remainder=allow_remainder,
            dtype=policy,
            name="patch_embedding",
        )
        prefix_tokens = PrefixTokens(
            class_token,
            distillation_token,
            register_tokens,
            use_positions=position_embedding == "learned" and not no_embed_class,
            dtype=policy,
            name="prefix_tokens",
        )
        blocks = [
            BLOCKS[block](
                num_heads,
                mlp_dim,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                qk_norm=qk_norm,
                scale_attn_norm=scale_attn_norm,
                scale_mlp_norm=scale_mlp_norm,
                proj_bias=proj_bias,
                gated_mlp=gated_mlp,
                activation=activation,
                attention=attention,
                init_values=init_values,
                norm=norm,
                norm_epsilon=norm_epsilon,
                dropout_rate=dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                drop_path_rate=drop_path_rate * index / max(depth - 1, 1),
                index=index,
                dtype=policy,
                name=f"block_{index:02d}",
            )
            for index in range(depth)
        ]
        num_skipped_tokens = 0 if pool_include_prefix else prefix_tokens.num_tokens

        # === Images to tokens ===
        height_width = image_size or (None, None)
        images = keras.Input((*height_width, num_channels), name="images")  # [B, H, W, C]
        x = stem_layer(images) if stem_layer else images
        patches = x = patch_embedding(x)  # [B, rows, columns, D]
        if position_embedding != "none":
            x = PositionEmbedding(
                grid,
                position_embedding,
                position_resampling,
                dtype=policy,
                name="position_embedding",
            )(x)
        x = keras.layers.Reshape((-1, hidden_dim), dtype=policy, name="tokens")(x)  # [B, N, D]
        if prefix_tokens.num_tokens:
            x = prefix_tokens(x)  # [B, prefix + N, D]
        x = keras.layers.Dropout(dropout_rate, dtype=policy, name="position_dropout")(x)
        if pre_norm:
            x = make_norm(norm, norm_epsilon, policy, "pre_norm")(x)

        # === Tokens to logits ===
        block_inputs = []
        for encoder_block in blocks:
            block_inputs.append(x)
            x = encoder_block(x)
        last_norm = make_norm(norm, norm_epsilon, policy, "norm") if final_norm else None
        if pooling == "map":
            pool: Any = AttentionPooling(
                num_heads,
                mlp_dim,
                activation=activation,
                num_skipped_tokens=num_skipped_tokens,
                norm=norm,
                norm_epsilon=norm_epsilon,
                dtype=policy,
                name="pooling",
            )
        else:
            pool = TokenPooling(
                pooling, prefix_tokens.num_tokens, pool_include_prefix, dtype=policy, name="pooling"
            )
        pre_logits = None
        if representation_size is not None:
            pre_logits = keras.layers.Dense(
                representation_size,
                activation="tanh",
                kernel_initializer="lecun_normal",
                dtype=policy,
                name="pre_logits",
            )
        heads = [
            keras.layers.Dense(
                num_classes,
                kernel_initializer="zeros",  # as in the paper: training starts from no opinion
                dtype="float32" if policy.name.startswith("mixed") else policy,
                name=name,
            )
            for name in ("head", "distillation_head")[: 2 if distillation_head else 1]
            if num_classes
        ]
        token_mean = keras.layers.Average(name="token_mean")
        head_mean = keras.layers.Average(dtype="float32", name="logits")

        def finish(x: Any) -> tuple[Any, Any, Any, list[Any]]:
            """What is pooled [B, N, D], representation [B, D], logits [B, classes] and each head's.

            All but the first are the same for the first `tokens_seen` tokens alone.
            """
            if last_norm and not fc_norm:
                x = last_norm(x)
            pooled = pool(x)  # [B, D]
            if last_norm and fc_norm:
                pooled = last_norm(pooled)
            if pre_logits:
                pooled = pre_logits(pooled)  # [B, representation_size]
            vectors = [pooled, x[:, 1]] if distillation_head else [pooled]
            representation = token_mean(vectors) if distillation_head else pooled
            logits = [head(vector) for head, vector in zip(heads, vectors, strict=False)]
            if not logits:
                return x, representation, representation, [representation]
            mean = head_mean(logits) if distillation_head else logits[0]
            return x, representation, mean, logits

        pooling_input, representation, logits, _ = finish(x)
        super().__init__(inputs=images, outputs=logits, name=name)

        # === Config ===
        self._arguments = {**arguments, "image_size": image_size, "patch_size": patch_size}
        self._policy = policy
        self.image_size = image_size
        self.patch_size = patch_size
        self.pixels_per_patch = (patch_size[0] * stride, patch_size[1] * stride)
        self.grid = grid
        self.hidden_dim = hidden_dim
        self.num_classes = num_classes
        self.num_prefix_tokens = prefix_tokens.num_tokens
        self.has_distillation_head = distillation_head
        # How many tokens, from the first, the heads see; None for all.
        self.tokens_seen = 1 + distillation_head if pooling == "token" else None
        self.has_stem = stem_layer is not None
        self.blocks = blocks
        self._representation = representation
        # Symbolic tensors on the way from images to logits, for those who look inside.
        self._patches = patches
        self._block_inputs = block_inputs
        self._pooling_input = pooling_input
        self._finish = finish
        self.preprocessing = preprocessing
        self.labels = labels

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Images [B, H, W, C] to logits [B, num_classes]; see the class."""
        # Checked before Keras does, whose message shows neither the sizes nor what to do.
        self.check_images(images)
        return super().__call__(images, *args, **kwargs)

    def check_images(self, images: Any) -> None:
        """Refuse what the model cannot take.

        Args:
            images: float [B, H, W, C], or symbolic; dimensions that are not known are not checked.

        Raises:
            ValueError: if the shape does not fit; the message says what to do.

        Example:
            >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2)
            >>> model.check_images(keras.ops.zeros([1, 32, 32, 3]))
        """
        channels = self._arguments["num_channels"]
        expected = (*(self.image_size or ("H", "W")), channels)
        given = tuple(getattr(images, "shape", (None, None, None, channels)))
        if len(given) != 4:
            raise ValueError(
                f"The model takes a batch of images [B, H, W, C] = [B, {expected[0]}, "
                f"{expected[1]}, {expected[2]}], not an array of shape {list(given)}. "
                f"One image is a batch of one: images[None]."
            )
        if any(
            a != b
            for a, b in zip(given[1:], expected, strict=True)
            if a is not None and not isinstance(b, str)
        ):
            raise ValueError(
                f"The images are {given[1]} x {given[2]} x {given[3]} (height x width x channels), "
                f"but this model takes {expected[0]} x {expected[1]} x {expected[2]}: resize them "
                f"with `model.preprocessing`, or create the model with image_size={given[1:3]}."
            )
        if self.image_size is None and None not in given[1:3]:
            grid_size(given[1:3], self.pixels_per_patch, self._arguments["allow_remainder"])

    @property
    def preprocessing(self) -> Preprocessing:
        """The evaluation transform that belongs to the weights; saved with the model."""
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing | dict[str, Any] | None) -> None:
        if value is None:
            value = Preprocessing(image_size=self.position_size)
        elif isinstance(value, dict):
            value = Preprocessing.from_config(value)
        if self.image_size is not None and value.image_size != self.image_size:
            raise ValueError(
                f"The preprocessing makes images of {value.image_size}, but the model takes "
                f"{self.image_size}: use `preprocessing.replace(image_size={self.image_size})`."
            )
        self._preprocessing = value

    @property
    def position_size(self) -> tuple[int, int]:
        """Height and width of the images that the positions are for."""
        rows, columns = self.grid
        height, width = self.pixels_per_patch
        return self.image_size or (rows * height, columns * width)

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

    def heads_model(self) -> keras.Model:
        """The same layers to the logits of each head, without work on tokens that no head sees.

        Where the pooling is "token" the last block does attention, projection and MLP for the first
        tokens alone: with twelve blocks that saves a sixteenth of all operations.

        Returns:
            A `keras.Model` that shares the weights: images [B, H, W, C] -> logits
            [B, num_classes], a list of them with a distillation head; the representation where
            `num_classes` is 0.

        Example:
            >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
            >>> model.heads_model()(keras.ops.zeros([1, 32, 32, 3])).shape
            TensorShape([1, 3])
        """
        x = self.blocks[-1](self._block_inputs[-1], seen=self.tokens_seen)
        return keras.Model(self.input, self._finish(x)[3], name=f"{self.name}_heads")

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
    def default_arguments(cls) -> dict[str, Any]:
        """The default of every argument of the constructor."""
        return dict(zip(_ARGUMENT_NAMES, cls.__init__.__defaults__ or (), strict=True))

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> VisionTransformer:
        """The model that `get_config` described, with fresh weights."""
        return cls(**config)


_ARGUMENT_NAMES = VisionTransformer.__init__.__code__.co_varnames[
    1 : VisionTransformer.__init__.__code__.co_argcount
]
_CONFIG_KEYS = frozenset(_ARGUMENT_NAMES)
