"""The layers of a Vision Transformer, one idea a file."""

from keras_vit.layers.attention import MultiHeadSelfAttention
from keras_vit.layers.differential_attention import DifferentialAttention
from keras_vit.layers.drop_path import DropPath
from keras_vit.layers.encoder_block import (
    BLOCKS,
    EncoderBlock,
    ParallelBlock,
    PostNormBlock,
    TwinBlock,
)
from keras_vit.layers.mlp import MLP
from keras_vit.layers.normalization import LayerNorm, LayerScale, RMSNorm, make_norm
from keras_vit.layers.patch_embedding import PatchEmbedding
from keras_vit.layers.pooling import AttentionPooling, TokenPooling
from keras_vit.layers.position_embedding import PositionEmbedding
from keras_vit.layers.stems import STEMS, ConvStem, ResNetDStem, ResNetV2Stem
from keras_vit.layers.tokens import PrefixTokens

__all__ = [
    "BLOCKS",
    "MLP",
    "STEMS",
    "AttentionPooling",
    "ConvStem",
    "DifferentialAttention",
    "DropPath",
    "EncoderBlock",
    "LayerNorm",
    "LayerScale",
    "MultiHeadSelfAttention",
    "ParallelBlock",
    "PatchEmbedding",
    "PositionEmbedding",
    "PostNormBlock",
    "PrefixTokens",
    "RMSNorm",
    "ResNetDStem",
    "ResNetV2Stem",
    "TokenPooling",
    "TwinBlock",
    "make_norm",
]
