"""Looking inside a model: what it attends to, what an answer was made of, what it has learned.

>>> import keras
>>> from keras_vit import VisionTransformer
>>> model = VisionTransformer((32, 16), 8, hidden_dim=16, depth=2, num_heads=2, num_classes=3)
>>> attribution(model, keras.ops.zeros([1, 32, 16, 3])).shape
(1, 4, 2)
"""

from keras_vit.explain.attention_maps import class_attention, mean_attention_distance
from keras_vit.explain.attribution import attribution
from keras_vit.explain.components import feature_map, patch_filters, position_similarity
from keras_vit.explain.deletion import deletion_curve
from keras_vit.explain.rollout import attention_rollout, rollout_function
from keras_vit.explain.steps import intermediates

__all__ = [
    "attention_rollout",
    "attribution",
    "class_attention",
    "deletion_curve",
    "feature_map",
    "intermediates",
    "mean_attention_distance",
    "patch_filters",
    "position_similarity",
    "rollout_function",
]
