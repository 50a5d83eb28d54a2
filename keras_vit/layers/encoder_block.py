"""The blocks of the encoder."""

from __future__ import annotations

from typing import Any

import keras

from keras_vit.layers.attention import MultiHeadSelfAttention, first_tokens
from keras_vit.layers.differential_attention import DifferentialAttention
from keras_vit.layers.drop_path import DropPath
from keras_vit.layers.mlp import MLP
from keras_vit.layers.normalization import LayerScale, make_norm
from keras_vit.layers.remat import rematerialize


@keras.saving.register_keras_serializable("keras_vit")
class EncoderBlock(keras.layers.Layer):
    """Attention, then MLP, each after a norm and with a residual.

    Equations 2 and 3 of Dosovitskiy et al. (2021), with an optional layer scale:
    `x + drop_path(scale1(attention(norm1(x))))`, then `x + drop_path(scale2(mlp(norm2(x))))`.

    The other blocks of this file take the same arguments.

    Args:
        num_heads: number of attention heads, a divisor of the token width D.
        mlp_dim: width inside the MLP.
        qkv_bias: whether query, key and value have a bias. Default True.
        qk_scale: factor on the attention logits. Default None: `(D / num_heads) ** -0.5`.
        qk_norm: whether queries and keys are normalised. Default False.
        scale_attn_norm: whether a norm precedes the attention's projection. Default False.
        scale_mlp_norm: whether a norm precedes the MLP's second layer. Default False.
        proj_bias: whether the attention's projection and the MLP have biases. Default True.
        gated_mlp: whether the MLP is a gated one. Default False.
        activation: of the MLP, see `MLP`. Default "gelu".
        attention: "softmax" or "differential". Default "softmax".
        init_values: start of the layer scales; None leaves them out. Default None.
        norm: "layer_norm" or "rms_norm". Default "layer_norm".
        norm_epsilon: of every norm. Default 1e-6.
        dropout_rate: after the attention's projection and after each dense layer of the MLP, in
            [0, 1). Default 0.
        attention_dropout_rate: on the attention weights, in [0, 1). Default 0.
        drop_path_rate: of dropping each branch for an example, in [0, 1). Default 0.
        index: number of the block, from 0; differential attention depends on it. Default 0.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Attributes:
        remat: whether training keeps only the input of the block, and computes what is inside again
            for the gradient. Default False; not saved.

    Raises:
        ValueError: from the layers inside, when an argument is out of range.

    Example:
        >>> EncoderBlock(num_heads=2, mlp_dim=32)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        scale_attn_norm: bool = False,
        scale_mlp_norm: bool = False,
        proj_bias: bool = True,
        gated_mlp: bool = False,
        activation: str = "gelu",
        attention: str = "softmax",
        init_values: float | None = None,
        norm: str = "layer_norm",
        norm_epsilon: float = 1e-6,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        index: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._arguments: dict[str, Any] = {
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "qkv_bias": qkv_bias,
            "qk_scale": qk_scale,
            "qk_norm": qk_norm,
            "scale_attn_norm": scale_attn_norm,
            "scale_mlp_norm": scale_mlp_norm,
            "proj_bias": proj_bias,
            "gated_mlp": gated_mlp,
            "activation": activation,
            "attention": attention,
            "init_values": init_values,
            "norm": norm,
            "norm_epsilon": norm_epsilon,
            "dropout_rate": dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "drop_path_rate": drop_path_rate,
            "index": index,
        }
        self.remat = False
        self._create()

    def _create(self) -> None:
        """Create the layers inside."""
        self.norm1 = self._norm("norm1")
        self.attention = self._attention("attention")
        self.scale1 = self._scale("scale1")
        self.drop_path1 = self._drop_path("drop_path1")
        self.norm2 = self._norm("norm2")
        self.mlp = self._mlp("mlp")
        self.scale2 = self._scale("scale2")
        self.drop_path2 = self._drop_path("drop_path2")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the weights for tokens [B, N, D]."""
        for layer in self._flatten_layers(include_self=False, recursive=False):
            if not layer.built:
                layer.build(input_shape)

    def call(
        self, x: Any, training: bool | None = None, weights: Any = None, seen: int | None = None
    ) -> Any:
        """Tokens [B, N, D] -> [B, N, D], or [B, seen, D].

        Args:
            x: tokens [B, N, D].
            training: whether dropout and stochastic depth act. Default: Keras decides.
            weights: attention weights to take in the place of `attention_weights(x)`, of the same
                shape: what the block computes as a function of its attention. Default None.
            seen: give only so many tokens, from the first, and compute nothing for the others
                but what those attend to. Default None: all.
        """
        if training and self.remat and weights is None:
            return rematerialize(self, lambda x: self._transform(x, training, None, seen), x)
        return self._transform(x, training, weights, seen)

    def _transform(
        self, x: Any, training: bool | None, weights: Any, seen: int | None = None
    ) -> Any:
        branch = self.attention(
            self.norm1(x, training=training), training=training, weights=weights, seen=seen
        )
        branch = self.scale1(branch)
        x = first_tokens(x, seen) + self.drop_path1(branch, training=training)
        branch = self.scale2(self.mlp(self.norm2(x, training=training), training=training))
        return x + self.drop_path2(branch, training=training)

    def attention_weights(self, x: Any) -> Any:
        """How much each token attends to each, in every head.

        Args:
            x: the block's input, tokens [B, N, D].

        Returns:
            float [B, H, N, N]; 2 H maps for a block with two attentions.
        """
        return self.attention.attention_weights(self.norm1(x))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def compute_output_spec(
        self, x: Any, training: bool | None = None, weights: Any = None, seen: int | None = None
    ) -> keras.KerasTensor:
        """What `call` gives for symbolic tokens."""
        batch, length, width = x.shape
        return keras.KerasTensor((batch, seen or length, width), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), **self._arguments}

    # === The parts that blocks are made of ===

    def _norm(self, name: str) -> keras.layers.Layer:
        a = self._arguments
        return make_norm(a["norm"], a["norm_epsilon"], self.dtype_policy, name)

    def _attention(self, name: str) -> MultiHeadSelfAttention:
        a = self._arguments
        kind: Any = MultiHeadSelfAttention
        arguments: dict[str, Any] = {}
        if a["attention"] == "differential":
            kind, arguments = DifferentialAttention, {"block_index": a["index"]}
        elif a["attention"] != "softmax":
            raise ValueError(
                f"attention must be 'softmax' or 'differential', not {a['attention']!r}."
            )
        return kind(
            a["num_heads"],
            qkv_bias=a["qkv_bias"],
            qk_scale=a["qk_scale"],
            qk_norm=a["qk_norm"],
            use_norm=a["scale_attn_norm"],
            proj_bias=a["proj_bias"],
            attention_dropout_rate=a["attention_dropout_rate"],
            dropout_rate=a["dropout_rate"],
            norm=a["norm"],
            norm_epsilon=a["norm_epsilon"],
            dtype=self.dtype_policy,
            name=name,
            **arguments,
        )

    def _mlp(self, name: str, use_bias: bool | tuple[bool, bool] | None = None) -> MLP:
        a = self._arguments
        return MLP(
            a["mlp_dim"],
            activation=a["activation"],
            gated=a["gated_mlp"],
            use_norm=a["scale_mlp_norm"],
            use_bias=a["proj_bias"] if use_bias is None else use_bias,
            dropout_rate=a["dropout_rate"],
            norm=a["norm"],
            norm_epsilon=a["norm_epsilon"],
            dtype=self.dtype_policy,
            name=name,
        )

    def _scale(self, name: str) -> keras.layers.Layer:
        init_values = self._arguments["init_values"]
        if init_values is None:
            return keras.layers.Identity(dtype=self.dtype_policy, name=name)
        return LayerScale(init_values, dtype=self.dtype_policy, name=name)

    def _drop_path(self, name: str) -> DropPath:
        return DropPath(self._arguments["drop_path_rate"], dtype=self.dtype_policy, name=name)


@keras.saving.register_keras_serializable("keras_vit")
class PostNormBlock(EncoderBlock):
    """The norm after each branch instead of before it.

    "Swin Transformer V2" (Liu et al., 2022), residual-post-norm:
    `x + drop_path(norm1(attention(x)))`, then `x + drop_path(norm2(mlp(x)))`. `init_values` is the
    start of the norms' own scale.

    Args:
        num_heads: and all others as of `EncoderBlock`.

    Example:
        >>> PostNormBlock(num_heads=2, mlp_dim=32)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def _create(self) -> None:
        self.attention = self._attention("attention")
        self.norm1 = self._norm("norm1")
        self.drop_path1 = self._drop_path("drop_path1")
        self.mlp = self._mlp("mlp")
        self.norm2 = self._norm("norm2")
        self.drop_path2 = self._drop_path("drop_path2")
        if self._arguments["init_values"] is not None:
            for norm in (self.norm1, self.norm2):
                norm.gamma_initializer = keras.initializers.Constant(self._arguments["init_values"])

    def _transform(
        self, x: Any, training: bool | None, weights: Any, seen: int | None = None
    ) -> Any:
        branch = self.attention(x, training=training, weights=weights, seen=seen)
        branch = self.norm1(branch, training=training)
        x = first_tokens(x, seen) + self.drop_path1(branch, training=training)
        branch = self.norm2(self.mlp(x, training=training), training=training)
        return x + self.drop_path2(branch, training=training)

    def attention_weights(self, x: Any) -> Any:
        """Tokens [B, N, D] to weights [B, H, N, N]."""
        return self.attention.attention_weights(x)


@keras.saving.register_keras_serializable("keras_vit")
class ParallelBlock(EncoderBlock):
    """Attention and MLP side by side after one norm.

    "Scaling Vision Transformers to 22 Billion Parameters" (Dehghani et al., 2023):
    `y = norm1(x)`, then `x + drop_path(scale1(attention(y) + mlp(y)))`. The first layer of the MLP
    always has a bias.

    Args:
        num_heads: and all others as of `EncoderBlock`.

    Example:
        >>> ParallelBlock(num_heads=2, mlp_dim=32)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def _create(self) -> None:
        self.norm1 = self._norm("norm1")
        self.attention = self._attention("attention")
        # With differential attention the two output projections are one product with one bias.
        one_bias = self._arguments["attention"] == "differential"
        self.mlp = self._mlp("mlp", use_bias=(True, self._arguments["proj_bias"] and not one_bias))
        self.scale1 = self._scale("scale1")
        self.drop_path1 = self._drop_path("drop_path1")

    def _transform(
        self, x: Any, training: bool | None, weights: Any, seen: int | None = None
    ) -> Any:
        y = self.norm1(x, training=training)
        branch = self.attention(y, training=training, weights=weights, seen=seen)
        branch = branch + self.mlp(first_tokens(y, seen), training=training)
        return first_tokens(x, seen) + self.drop_path1(self.scale1(branch), training=training)


@keras.saving.register_keras_serializable("keras_vit")
class TwinBlock(EncoderBlock):
    """Two attentions side by side, then two MLPs side by side, each with its own norm.

    "Three things everyone should know about Vision Transformers" (Touvron et al., 2022), section 3.

    Args:
        num_heads: and all others as of `EncoderBlock`.

    Example:
        >>> TwinBlock(num_heads=2, mlp_dim=32)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    def _create(self) -> None:
        super()._create()  # the first of each pair
        self.norm3 = self._norm("norm3")
        self.attention2 = self._attention("attention2")
        self.scale3 = self._scale("scale3")
        self.drop_path3 = self._drop_path("drop_path3")
        self.norm4 = self._norm("norm4")
        self.mlp2 = self._mlp("mlp2")
        self.scale4 = self._scale("scale4")
        self.drop_path4 = self._drop_path("drop_path4")

    def _transform(
        self, x: Any, training: bool | None, weights: Any, seen: int | None = None
    ) -> Any:
        own = (None, None) if weights is None else keras.ops.split(weights, 2, axis=1)
        y = self.norm1(x, training=training)
        first = self.attention(y, training=training, weights=own[0], seen=seen)
        y = self.norm3(x, training=training)
        second = self.attention2(y, training=training, weights=own[1], seen=seen)
        first, second = self.scale1(first), self.scale3(second)
        x = first_tokens(x, seen) + (
            self.drop_path1(first, training=training) + self.drop_path3(second, training=training)
        )
        first = self.scale2(self.mlp(self.norm2(x, training=training), training=training))
        second = self.scale4(self.mlp2(self.norm4(x, training=training), training=training))
        return x + (
            self.drop_path2(first, training=training) + self.drop_path4(second, training=training)
        )

    def attention_weights(self, x: Any) -> Any:
        """Tokens [B, N, D] to the weights of both attentions, [B, 2 H, N, N]."""
        first = super().attention_weights(x)
        second = self.attention2.attention_weights(self.norm3(x))
        return keras.ops.concatenate([first, second], axis=1)


BLOCKS = {
    "pre_norm": EncoderBlock,
    "post_norm": PostNormBlock,
    "parallel": ParallelBlock,
    "twin": TwinBlock,
}
