"""The served graph: encoded images in, labelled answers out.

Every signature guards the rank of its input (a wrong rank can end a whole TF Serving process),
answers an empty batch, and has the batch as the first dimension of every output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_vit import VisionTransformer
from keras_vit.decoding import check_size
from serving.fused import TokenMerging, fuse

MAX_IMAGES = 256  # in one request: some thousand would take all memory

Outputs = dict[str, tf.Tensor]


class ServedModel:
    """A model with the signatures of the serving contract.

    Args:
        model: what answers.
        top_k: most classes that an answer holds, at least 1. Default 10.
        token_merging: as of `fuse`. Default None.
        streams: as of `fuse`. Default 1.

    Example:
        >>> model = VisionTransformer(32, 8, hidden_dim=16, depth=1, num_heads=2, num_classes=3)
        >>> sorted(ServedModel(model).signatures())
        ['attention', 'classify', 'embed', 'images', 'probabilities', 'serving_default']
    """

    def __init__(
        self,
        model: VisionTransformer,
        top_k: int = 10,
        token_merging: TokenMerging | None = None,
        streams: int = 1,
    ) -> None:
        self._model = model
        self._preprocessing = model.preprocessing
        # Traced once, for all the signatures that decode.
        bytes_spec = tf.TensorSpec([], tf.string)
        self._decode = tf.function(model.preprocessing, [bytes_spec], autograph=False)
        self.parts = fuse(model, token_merging, streams)
        images = [tf.TensorSpec([None, *self._preprocessing.output_shape])]
        self._answer = tf.function(self._embedding_and_probabilities, images, autograph=False)
        self._rollout = tf.function(self.parts.rollout, images, autograph=False)
        self._top_k = min(top_k, model.num_classes)
        self._labels = list(model.labels or map(str, range(model.num_classes)))

    def signatures(self) -> dict[str, Callable[..., Outputs]]:
        """The traced functions by signature name.

        Returns:
            `embed` and `attention`, and, if the model has a head, `serving_default`,
            `probabilities`, `images` and `classify`: concrete functions for `write_saved_model`,
            which call those of `called`.
        """
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        signatures: dict[str, tuple[Callable[..., Outputs], tf.TensorSpec]] = {
            "embed": (self._embed, image_bytes),
            "attention": (self._attention, image_bytes),
        }
        if self._model.num_classes:
            height_width = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
            examples = tf.TensorSpec([None], tf.string, name="inputs")
            signatures |= {
                "serving_default": (self._serving_default, image_bytes),
                "probabilities": (self._probabilities, image_bytes),
                "images": (self._images, height_width),
                "classify": (self._classify, examples),
            }
        return {
            name: tf.function(function, autograph=False).get_concrete_function(spec)
            for name, (function, spec) in signatures.items()
        }

    @property
    def called(self) -> list[Any]:
        """The concrete functions of the model, which the signatures call."""
        return [function.get_concrete_function() for function in (self._answer, self._rollout)]

    # === Signatures ===

    def _serving_default(self, image_bytes: tf.Tensor) -> Outputs:
        probabilities, valid = self._from_bytes(image_bytes, self._softmax)
        classes, scores = self._top(probabilities)
        # A bad image has no classes; its row is empty strings and zeros.
        classes = tf.where(valid[:, None], classes, tf.zeros_like(classes))
        return {"classes": classes, "scores": scores, "valid": valid}

    def _probabilities(self, image_bytes: tf.Tensor) -> Outputs:
        probabilities, valid = self._from_bytes(image_bytes, self._softmax)
        return {"probabilities": probabilities, "valid": valid}

    def _embed(self, image_bytes: tf.Tensor) -> Outputs:
        embedding, valid = self._from_bytes(image_bytes, self._embedding)
        return {"embedding": embedding, "valid": valid}

    def _attention(self, image_bytes: tf.Tensor) -> Outputs:
        attention, valid = self._from_bytes(image_bytes, self._rollout)
        return {"attention": attention, "valid": valid}

    def _images(self, images: tf.Tensor) -> Outputs:
        images = tf.ensure_shape(images, (None, None, None, 3))  # [N, h, w, 3]
        shape = tf.shape(images)
        checks = check_size(shape[1], shape[2], self._preprocessing.max_pixels)
        with tf.control_dependencies([*checks, _check_count(shape[0])]):
            images = tf.identity(images)
        # An empty batch would fail inside the fused matrix products: give them one row.
        padding = tf.maximum(1 - shape[0], 0)
        images = tf.pad(images, [[0, padding], [0, 0], [0, 0], [0, 0]])
        probabilities = self._softmax(self._preprocessing.from_pixels(images))
        classes, scores = self._top(probabilities[: shape[0]])
        return {"classes": classes, "scores": scores}

    def _classify(self, inputs: tf.Tensor) -> Outputs:
        def encoded_image(example: tf.Tensor) -> tf.Tensor:
            feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
            return tf.io.parse_single_example(example, feature)["image/encoded"]

        probabilities, valid = self._from_bytes(inputs, self._softmax, encoded_image)
        classes, scores = self._top(probabilities)
        # The Classify API knows no third output: an empty class says that the image was bad.
        return {
            "classes": tf.where(valid[:, None], classes, tf.zeros_like(classes)),
            "scores": scores,
        }

    # === Parts ===

    def _embedding_and_probabilities(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Normalised images [N, H, W, 3] to what the head sees [N, D], and [N, num_classes]."""
        representation, logits = self.parts.answer(images)
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        return tf.cast(representation, tf.float32), probabilities

    def _embedding(self, images: tf.Tensor) -> tf.Tensor:
        return self._answer(images)[0]

    def _softmax(self, images: tf.Tensor) -> tf.Tensor:
        return self._answer(images)[1]

    def _top(self, probabilities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best classes, string [N, K], and their scores, float32 [N, K], best first."""
        scores, indices = tf.math.top_k(probabilities, self._top_k)
        return tf.gather(tf.constant(self._labels), indices), scores

    def _from_bytes(
        self,
        image_bytes: tf.Tensor,
        compute: Callable[[tf.Tensor], tf.Tensor],
        unwrap: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Decode each image by itself, compute the good ones, and put zeros for the bad ones.

        Only the good images reach the model, so they get the very numbers that they would get in a
        batch without the bad ones.

        Args:
            image_bytes: string [N].
            compute: normalised images, float32 [M, H, W, 3] with M > 0 -> float32 [M, …].
            unwrap: string scalar -> encoded image, string scalar.

        Returns:
            float32 [N, …], and whether each image was good, bool [N].
        """
        image_bytes = tf.ensure_shape(image_bytes, (None,))
        count = tf.size(image_bytes)
        with tf.control_dependencies([_check_count(count)]):
            image_bytes = tf.identity(image_bytes)
        where, images = self._decode_good(image_bytes, unwrap)
        good = tf.size(where)
        values = compute(images)[:good]  # [M, …]
        where = where[:, None]
        shape = tf.concat([[count], tf.shape(values)[1:]], axis=0)
        # The static shape tells callers what comes: scatter_nd forgets it.
        scattered = tf.ensure_shape(tf.scatter_nd(where, values, shape), [None, *values.shape[1:]])
        return scattered, tf.scatter_nd(where, tf.ones([good], tf.bool), [count])

    def _decode_good(
        self, image_bytes: tf.Tensor, unwrap: Callable[[tf.Tensor], tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Positions of the decodable images, int32 [M], and these images [max(M, 1), H, W, 3].

        A tf.data pipeline is the one construction in which a failing operation can be passed over
        inside a graph; it decodes in parallel too.
        """
        count = tf.size(image_bytes)
        positions = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        decoded = positions.map(
            lambda position, data: (position, self._decode(unwrap(data))),
            num_parallel_calls=tf.data.AUTOTUNE,  # with tuning off: the threads of the server
            deterministic=True,
        ).ignore_errors()
        # One blank image at the end: the batch is never empty, whatever was sent.
        blank = tf.data.Dataset.from_tensors(
            (tf.constant(-1), tf.zeros(self._preprocessing.output_shape))
        )
        options = tf.data.Options()
        options.autotune.enabled = False  # one short run: there is nothing to tune
        batch = decoded.concatenate(blank).batch(tf.cast(count, tf.int64) + 1)
        where, images = batch.with_options(options).get_single_element()
        good = tf.size(where) - 1
        return where[:good], images[: tf.maximum(good, 1)]


def _check_count(count: tf.Tensor) -> tf.Operation:
    """Refuse a request of too many images."""
    message = f"a request may hold {MAX_IMAGES} images; this one holds:"
    return tf.debugging.Assert(count <= MAX_IMAGES, [message, count])
