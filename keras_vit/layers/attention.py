"""Multi-head self-attention."""

from __future__ import annotations

from typing import Any

import keras

from keras_vit.layers.normalization import make_norm
from keras_vit.layers.token_dense import TokenDense
from keras_vit.layers.training_kernels import softmax_kernel, use_training_kernels


@keras.saving.register_keras_serializable("keras_vit")
class MultiHeadSelfAttention(keras.layers.Layer):
    """Every token attends to every token, with query, key and value from one fused product.

    Appendix A of Dosovitskiy et al. (2021): `softmax(q k^T * qk_scale) v` in each head, the heads
    side by side through an output projection. The softmax is computed in float32 at any dtype.

    Args:
        num_heads: number of heads, a divisor of the token width D.
        qkv_bias: whether query, key and value have a bias. Default True.
        qk_scale: factor on the attention logits. Default None: `(D / num_heads) ** -0.5`.
        qk_norm: whether queries and keys are normalised in each head ("Scaling Vision Transformers
            to 22 Billion Parameters", Dehghani et al., 2023). Default False.
        use_norm: whether a normalisation precedes the output projection. Default False.
        proj_bias: whether the output projection has a bias. Default True.
        attention_dropout_rate: dropout on the attention weights, in [0, 1). Default 0.
        dropout_rate: dropout after the output projection, in [0, 1). Default 0.
        norm: of `qk_norm` and `use_norm`, "layer_norm" or "rms_norm". Default "layer_norm".
        norm_epsilon: of those normalisations. Default 1e-6.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: when built on a width that `num_heads` does not divide.

    Example:
        >>> MultiHeadSelfAttention(num_heads=2)(keras.ops.zeros([1, 10, 8])).shape
        TensorShape([1, 10, 8])
    """

    maps_per_head = 1  # attention maps; queries and keys of a head are shared among them

    def __init__(
        self,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        qk_norm: bool = False,
        use_norm: bool = False,
        proj_bias: bool = True,
        attention_dropout_rate: float = 0.0,
        dropout_rate: float = 0.0,
        norm: str = "layer_norm",
        norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.qk_scale = qk_scale
        self.qk_norm = qk_norm
        self.use_norm = use_norm
        self.proj_bias = proj_bias
        self.attention_dropout_rate = attention_dropout_rate
        self.dropout_rate = dropout_rate
        self._norm_arguments = {"norm": norm, "norm_epsilon": norm_epsilon}

        def make(use: bool, name: str) -> Any:
            return make_norm(norm, norm_epsilon, self.dtype_policy, name) if use else None

        self.q_norm, self.k_norm = make(qk_norm, "q_norm"), make(qk_norm, "k_norm")
        self.norm = make(use_norm, "norm")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Create the two projections for tokens [B, N, D]."""
        width = input_shape[-1]
        self.head_dim = check_num_heads(width, self.num_heads)
        qk_dim = self.head_dim // self.maps_per_head
        self.scale = qk_dim**-0.5 if self.qk_scale is None else self.qk_scale
        self.qkv = TokenDense(
            3 * width,
            use_bias=self.qkv_bias,
            # Glorot-uniform for each of the three [D, D] matrices: by itself it would take 3D for
            # the fan-out of the fused [D, 3D] kernel, and draw from too narrow a range.
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform"),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.projection = TokenDense(
            width,
            use_bias=self.proj_bias,
            kernel_initializer="glorot_uniform",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.attention_dropout = keras.layers.Dropout(
            self.attention_dropout_rate, dtype=self.dtype_policy, name="attention_dropout"
        )
        self.projection_dropout = keras.layers.Dropout(
            self.dropout_rate, dtype=self.dtype_policy, name="projection_dropout"
        )
        self.qkv.build(input_shape)
        self.projection.build(input_shape)
        if self.q_norm is not None:
            self.q_norm.build((None, None, None, qk_dim))
            self.k_norm.build((None, None, None, qk_dim))
        if self.norm is not None:
            self.norm.build(input_shape)

    def call(
        self, x: Any, training: bool | None = None, weights: Any = None, seen: int | None = None
    ) -> Any:
        """Tokens [B, N, D] -> [B, N, D], or [B, seen, D].

        Args:
            x: tokens [B, N, D].
            training: whether dropout acts. Default: Keras decides.
            weights: attention weights [B, H, N, N] to take in the place of `attention_weights(x)`.
                Default None.
            seen: let only so many tokens attend, from the first. Default None: all.
        """
        if seen is not None and weights is None and self.can_skip_keys(seen):
            return self._project(self._without_keys(x, seen, training), training)
        q, k, v = self._query_key_value(x)
        if weights is None:
            weights = self._weights(first_tokens(q, seen, axis=2), k, training)
        else:
            weights = first_tokens(weights, seen, axis=2)
        weights = self.attention_dropout(weights, training=training)  # [B, H, N or seen, N]
        return self._project(self._values(weights, v), training)

    def attention_weights(self, x: Any) -> Any:
        """How much each token attends to each.

        Args:
            x: tokens [B, N, D], as `call` takes them (after the norm).

        Returns:
            float [B, H, N, N]; each row sums to 1.
        """
        q, k, _ = self._query_key_value(x)
        return self._weights(q, k)

    def can_skip_keys(self, seen: int | None) -> bool:
        """Whether few tokens can attend for less than the keys and values of all tokens cost.

        Args:
            seen: how many attend; None for all.

        Returns:
            True for fewer than D/H tokens, where keys are nothing but a product and the weights of
            a token sum to 1: without norm of the keys and without dropout on the weights.

        Example:
            >>> attention = MultiHeadSelfAttention(num_heads=2)
            >>> attention.build((None, 10, 8))
            >>> [attention.can_skip_keys(seen) for seen in (1, 4, None)]
            [True, False, False]
        """
        plain = self.maps_per_head == 1 and self.k_norm is None and not self.attention_dropout_rate
        return plain and seen is not None and seen < self.head_dim

    def _without_keys(self, x: Any, seen: int, training: bool | None) -> Any:
        """What the first tokens take from all tokens [B, N, D], in each head, [B, seen, D].

        `q (x W_k)^T` is `(q W_k^T) x^T`, and `w (x W_v)` is `(w x) W_v`: where q and w have few
        rows, the products with all tokens are `seen` columns wide for each head, not D/H. The bias
        of the keys adds one number to a whole row of logits, so that softmax takes it away; a row
        of w sums to 1, so that the bias of the values comes after it.
        """
        width = self.num_heads * self.head_dim
        kernels = keras.ops.split(keras.ops.convert_to_tensor(self.qkv.kernel), 3, axis=1)
        w_q, w_k, w_v = (
            keras.ops.reshape(w, (width, self.num_heads, self.head_dim)) for w in kernels
        )
        b_q, b_v = 0.0, 0.0
        if self.qkv_bias:
            b_q, _, b_v = keras.ops.split(keras.ops.convert_to_tensor(self.qkv.bias), 3)

        def by_head(rows: Any) -> Any:  # [M, H, C] to [H, M, C], and back
            return keras.ops.transpose(rows, (1, 0, 2))

        rows = keras.ops.reshape(first_tokens(x, seen), (-1, width))  # [B seen, D]
        q = (keras.ops.matmul(rows, keras.ops.reshape(w_q, (width, -1))) + b_q) * self.scale
        q = by_head(keras.ops.reshape(q, (-1, self.num_heads, self.head_dim)))
        q = by_head(keras.ops.matmul(q, keras.ops.transpose(w_k, (1, 2, 0))))  # [B seen, H, D]
        q = keras.ops.reshape(q, (-1, seen * self.num_heads, width))
        logits = keras.ops.matmul(q, keras.ops.transpose(x, (0, 2, 1)))
        weights = self._softmax(logits, training)  # [B, seen H, N]
        y = keras.ops.reshape(keras.ops.matmul(weights, x), (-1, self.num_heads, width))
        y = by_head(keras.ops.matmul(by_head(y), by_head(w_v)))  # [B seen, H, D/H]
        return keras.ops.reshape(y, (-1, seen, width)) + b_v

    def _query_key_value(self, x: Any) -> tuple[Any, Any, Any]:
        """Tokens [B, N, D] to three tensors [B, H, N, D/H]."""
        length = keras.ops.shape(x)[1]
        qkv = keras.ops.reshape(self.qkv(x), (-1, length, 3, self.num_heads, self.head_dim))
        # The three lie one after the other in memory, and need no copies of their own.
        q, k, v = keras.ops.unstack(keras.ops.transpose(qkv, (2, 0, 3, 1, 4)))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def _split(self, x: Any, num_heads: int) -> Any:
        """[B, N, H * C] to [B, H, N, C]."""
        length = keras.ops.shape(x)[1]
        x = keras.ops.reshape(x, (-1, length, num_heads, x.shape[-1] // num_heads))
        return keras.ops.transpose(x, (0, 2, 1, 3))

    def _merge(self, x: Any) -> Any:
        """[B, H, N, C] to [B, N, H * C]."""
        length = keras.ops.shape(x)[2]
        width = x.shape[1] * x.shape[3]
        return keras.ops.reshape(keras.ops.transpose(x, (0, 2, 1, 3)), (-1, length, width))

    def _weights(self, q: Any, k: Any, training: bool | None = None) -> Any:
        """Attention weights [B, H, N, N] from queries and keys [B, H, N, D/H]."""
        # Scaling the queries first keeps float16 products inside its range.
        logits = keras.ops.matmul(q * self.scale, keras.ops.transpose(k, (0, 1, 3, 2)))
        return self._softmax(logits, training)

    def _softmax(self, logits: Any, training: bool | None) -> Any:
        """Softmax over the last axis, in float32."""
        if use_training_kernels(training):
            return softmax_kernel(logits)
        weights = keras.ops.softmax(keras.ops.cast(logits, "float32"), axis=-1)
        return keras.ops.cast(weights, logits.dtype)

    def _values(self, weights: Any, v: Any) -> Any:
        """What the weights [B, H, N, N] take from the values [B, H, N, D/H], [B, N, D]."""
        return self._merge(keras.ops.matmul(weights, v))

    def _project(self, x: Any, training: bool | None) -> Any:
        """The heads side by side, [B, N, D], through the output projection."""
        if self.norm is not None:
            x = self.norm(x, training=training)
        return self.projection_dropout(self.projection(x), training=training)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "qkv_bias": self.qkv_bias,
            "qk_scale": self.qk_scale,
            "qk_norm": self.qk_norm,
            "use_norm": self.use_norm,
            "proj_bias": self.proj_bias,
            "attention_dropout_rate": self.attention_dropout_rate,
            "dropout_rate": self.dropout_rate,
            **self._norm_arguments,
        }


def first_tokens(x: Any, seen: int | None, axis: int = 1) -> Any:
    """The first tokens of all.

    Args:
        x: any tensor that has an axis of tokens.
        seen: how many; None for all.
        axis: that the tokens lie along, above 0. Default 1.

    Returns:
        `x` with `seen` entries along the axis.

    Example:
        >>> first_tokens(keras.ops.zeros([1, 10, 8]), 2).shape
        TensorShape([1, 2, 8])
    """
    return x if seen is None else x[(*[slice(None)] * axis, slice(seen))]


def check_num_heads(hidden_dim: int, num_heads: int) -> int:
    """The width of one head.

    Args:
        hidden_dim: width of a token, D.
        num_heads: number of heads, H.

    Returns:
        D / H.

    Raises:
        ValueError: if H does not divide D; the message lists the numbers that do.

    Example:
        >>> check_num_heads(192, 3)
        64
    """
    if num_heads < 1 or hidden_dim % num_heads:
        divisors = [h for h in range(1, hidden_dim + 1) if hidden_dim % h == 0 and h <= 64]
        raise ValueError(
            f"num_heads={num_heads} does not divide hidden_dim={hidden_dim}. Choose one of "
            f"{divisors}, or another hidden_dim."
        )
    return hidden_dim // num_heads
