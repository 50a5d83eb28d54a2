"""The files that TF Serving is configured with: read, checked and written without TensorFlow."""
