"""Random changes to training images: stateless, seeded, inside the tf.data graph."""
