"""The model as the served graph computes it."""

from serving.fused.graph import Parts, check_token_merging, fuse
from serving.fused.token_merging import TokenMerging

__all__ = ["Parts", "TokenMerging", "check_token_merging", "fuse"]
