"""The arms of "How to train your ViT?" (Steiner et al., 2022), from none to strong2."""

from __future__ import annotations

from training.augmentation.config import Augmentation
from training.config import ModelConfig, PreprocessingConfig, Recipe
from training.optimization.config import OptimizerConfig, ScheduleConfig
from training.recipes.registry import recipe

# name -> mixup, layers and magnitude of RandAugment
_ARMS = {
    "none": (0.0, 0, 0.0),
    "light1": (0.0, 2, 0.0),
    "light2": (0.2, 2, 10.0),
    "medium1": (0.2, 2, 15.0),
    "medium2": (0.5, 2, 15.0),
    "strong1": (0.5, 2, 20.0),
    "strong2": (0.8, 2, 20.0),
}


def _arm(name: str) -> Recipe:
    mixup, layers, magnitude = _ARMS[name]
    return Recipe(
        data="tfds:imagenet2012",
        epochs=300,
        batch_size=4096,
        loss="sigmoid",
        model=ModelConfig(
            variant="vit_small_patch16_224",
            representation_size=384,
            head_bias=-6.9,
            dtype="mixed_bfloat16",
        ),
        preprocessing=PreprocessingConfig(crop_fraction=0.875, interpolation="bilinear"),
        # The authors' decay of 1e-4 is not multiplied by the learning rate of 1e-3; Keras' is.
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1),
        schedule=ScheduleConfig(warmup_steps=10_000),
        augmentation=Augmentation(
            crop="inception",
            flip=True,
            randaugment_layers=layers,
            randaugment_magnitude=magnitude,
            mixup=mixup,
        ),
    )


@recipe
def augreg_none() -> Recipe:
    """AugReg without augmentation beyond crop and flip: what Ti/16 takes on ImageNet-21k.

    keras-vit train augreg_none --data records:i21k --model.head-bias -10 --workdir runs/augreg

    The published Ti/16 of this arm fine-tunes to 78.2 % on ImageNet at 384 pixels. Not run here.
    The other variants: --model.variant vit_tiny_patch16_224 --model.representation-size 192.
    """
    return _arm("none")


@recipe
def augreg_light1() -> Recipe:
    """AugReg light1, RandAugment(2, 0): Ti/16 on ImageNet, S/16 on ImageNet-21k.

    keras-vit train augreg_light1 --data records:i21k --model.head-bias -10 --workdir runs/augreg

    The published S/16 of this arm fine-tunes to 83.7 % on ImageNet at 384 pixels. Not run here. In
    the names of Google's files this arm is aug_light0.
    """
    return _arm("light1")


@recipe
def augreg_light2() -> Recipe:
    """AugReg light2, RandAugment(2, 10) and mixup 0.2: B/16 and B/32 on ImageNet-21k.

    keras-vit train augreg_light2 --workdir runs/augreg_light2

    Not run here. In the names of Google's files this arm is aug_light1.
    """
    return _arm("light2")


@recipe
def augreg_medium1() -> Recipe:
    """AugReg medium1, RandAugment(2, 15) and mixup 0.2: S/32 on ImageNet, B/16 on ImageNet-21k.

    keras-vit train augreg_medium1 --data records:i21k --model.head-bias -10 --workdir runs/augreg

    The published B/16 of this arm fine-tunes to 85.5 % on ImageNet at 384 pixels. Not run here.
    """
    return _arm("medium1")


@recipe
def augreg_medium2() -> Recipe:
    """AugReg medium2, RandAugment(2, 15) and mixup 0.5: S/16 to L/16 on ImageNet alone.

    keras-vit train augreg_medium2 --data-dir gs://my-bucket/tfds --workdir runs/augreg_medium2

    The published S/16 of this arm has 78.8 % top-1 at 224 pixels, 81.1 % at 384. Not run here.
    """
    return _arm("medium2")


@recipe
def augreg_strong1() -> Recipe:
    """AugReg strong1, RandAugment(2, 20) and mixup 0.5: L/16 on ImageNet-21k.

    keras-vit train augreg_strong1 --data records:i21k --model.head-bias -10 --workdir runs/augreg

    The published L/16 of this arm fine-tunes to 85.6 % on ImageNet at 384 pixels. Not run here.
    """
    return _arm("strong1")


@recipe
def augreg_strong2() -> Recipe:
    r"""AugReg strong2, RandAugment(2, 20) and mixup 0.8: B/16 on ImageNet alone.

    keras-vit train augreg_strong2 --model.variant vit_base_patch16_224 \
        --model.representation-size 768 --model.dropout-rate 0.1 --workdir runs/augreg_strong2

    The published B/16 of this arm has 79.2 % top-1 at 224 pixels, 81.1 % at 384. Not run here.
    """
    return _arm("strong2")
