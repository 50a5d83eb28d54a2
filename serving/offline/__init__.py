"""Predictions of an export over many images without a server, on one machine or a cluster."""
