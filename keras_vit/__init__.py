"""Vision Transformers in Keras 3: from any checkpoint, or your own images, to TF Serving.

>>> model = create_model("ViT-Ti/16", num_classes=10, image_size=32)
>>> model.preprocessing.image_size
(32, 32)
"""

from keras_vit._version import __version__
from keras_vit.explain import attention_rollout, intermediates
from keras_vit.preprocessing import Preprocessing
from keras_vit.saving import load_model
from keras_vit.variants import count_parameters, create_model, list_models
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.weights.loading import from_pretrained
from keras_vit.weights.writing import save_checkpoint

__all__ = [
    "Preprocessing",
    "VisionTransformer",
    "__version__",
    "attention_rollout",
    "count_parameters",
    "create_model",
    "from_pretrained",
    "intermediates",
    "list_models",
    "load_model",
    "save_checkpoint",
]
