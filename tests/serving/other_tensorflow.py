"""Answers of a SavedModel under the TensorFlow that runs this: `PYTHON other_tensorflow.py DIR`.

DIR holds `model/`, and `questions.npz` with `SIGNATURE` -> input; `answers.npz` is written beside
it with `SIGNATURE/OUTPUT`. Needs nothing but tensorflow.
"""

import sys

import numpy as np
import tensorflow as tf


def main(directory):
    questions = np.load(f"{directory}/questions.npz")
    answers = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], f"{directory}/model")
        for name in questions.files:
            signature = meta_graph.signature_def[name]
            (feed,) = signature.inputs.values()
            value = questions[name]
            if value.dtype.kind == "V":  # encoded images, with an x at the end, filled with zeros
                value = np.array([bytes(v).rstrip(b"\x00")[:-1] for v in value], object)
            fetches = {key: info.name for key, info in signature.outputs.items()}
            for key, answer in session.run(fetches, {feed.name: value}).items():
                answer = answer.astype("S") if answer.dtype == object else answer
                answers[f"{name}/{key}"] = answer
    np.savez(f"{directory}/answers.npz", **answers)
    print(tf.__version__)


if __name__ == "__main__":
    main(sys.argv[1])
