"""A tiny served model that names the strongest colour of an image, and images for it."""

import io

import numpy as np
from PIL import Image

LABELS = ("red", "green", "blue")
# An image for each label.
COLOURS = {"a.png": (250, 0, 0), "b.png": (0, 250, 0), "c.png": (0, 0, 250)}


def write_model(path, *, labels=LABELS):
    """Export a model with the contract's signatures: it names the strongest colour of an image."""
    import tensorflow as tf

    def decode(image_bytes):
        is_png = tf.strings.substr(image_bytes, 0, 4) == b"\x89PNG"

        def pixels():
            return tf.reduce_mean(
                tf.cast(tf.io.decode_png(image_bytes, channels=3), tf.float32), axis=(0, 1)
            )

        return tf.cond(is_png, pixels, lambda: tf.zeros(3)), is_png

    class ColourModel(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(1 / 255.0)

        def colours(self, image_bytes):
            return tf.map_fn(decode, image_bytes, fn_output_signature=(tf.float32, tf.bool))

        def top(self, colours):
            scores, order = tf.math.top_k(tf.nn.softmax(colours * self.scale * 8), k=3)
            return {"classes": tf.gather(tf.constant(labels), order), "scores": scores}

    model = ColourModel()
    encoded = tf.TensorSpec([None], tf.string, "image_bytes")

    @tf.function(input_signature=[encoded])
    def serving_default(image_bytes):
        colours, valid = model.colours(image_bytes)
        return {**model.top(colours), "valid": valid}

    @tf.function(input_signature=[encoded])
    def probabilities(image_bytes):
        colours, valid = model.colours(image_bytes)
        return {"probabilities": tf.nn.softmax(colours * model.scale * 8), "valid": valid}

    @tf.function(input_signature=[encoded])
    def embed(image_bytes):
        colours, valid = model.colours(image_bytes)
        return {"embedding": colours * model.scale, "valid": valid}

    @tf.function(input_signature=[encoded])
    def attention(image_bytes):
        colours, valid = model.colours(image_bytes)
        grid = tf.ones([1, 2, 3]) * tf.reduce_mean(colours, axis=1)[:, None, None]
        return {"attention": grid, "valid": valid}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def images(images):
        return model.top(tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(inputs):
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        colours, _ = model.colours(tf.io.parse_example(inputs, features)["image/encoded"])
        return model.top(colours)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, "seconds")])
    def slow(seconds):
        end = tf.timestamp() + tf.reduce_max(seconds)
        tf.while_loop(lambda _: tf.timestamp() < end, lambda i: [i + 1], [tf.constant(0)])
        with tf.control_dependencies([tf.identity(end)]):
            done = tf.while_loop(lambda t: t < end, lambda _: [tf.timestamp()], [end - 1e-9])
        return {"seconds": seconds + 0 * done[0]}

    functions = (serving_default, probabilities, embed, attention, images, classify, slow)
    signatures = {function._python_function.__name__: function for function in functions}
    tf.saved_model.save(model, str(path), signatures=signatures)


def png(colour, size=(8, 6)):
    """Encode an image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(colour, height=6, width=8):
    """Make the pixels of an image of one colour, uint8 [H, W, 3]."""
    return np.full((height, width, 3), colour, np.uint8)
