"""Load on a server, and how it copes: clients without TensorFlow."""
