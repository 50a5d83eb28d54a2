"""Recipes that run on a laptop."""

from __future__ import annotations

from training.augmentation.config import Augmentation
from training.config import ModelConfig, PreprocessingConfig, Recipe
from training.optimization.config import OptimizerConfig, ScheduleConfig
from training.recipes.registry import recipe


@recipe
def digits() -> Recipe:
    """scikit-learn's handwritten digits, 8 x 8 pixels: the small one that runs anywhere.

    keras-vit train digits --workdir runs/digits

    Expect a top1 of 0.98 to 0.99 on the 360 test digits after three minutes on two cores.
    """
    return Recipe(
        data="digits",
        epochs=80,
        batch_size=64,
        label_smoothing=0.1,
        model=ModelConfig(
            image_size=8,
            patch_size=4,
            hidden_dim=128,
            depth=4,
            num_heads=4,
            drop_path_rate=0.1,
        ),
        preprocessing=PreprocessingConfig(crop_fraction=1.0),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        augmentation=Augmentation(crop="shift", shift_pixels=1, mixup=0.4),
    )


@recipe
def cifar10_tiny() -> Recipe:
    """CIFAR-10 from scratch with 0.46 million parameters, for a processor of two cores.

    keras-vit train cifar10_tiny --workdir runs/cifar10

    Expect a top1 of 0.69 on the test images: after the ten epochs 0.374, 0.497, 0.512, 0.567,
    0.606, 0.628, 0.657, 0.669, 0.684 and 0.687 were seen. The same in timm and PyTorch,
    tests/parity/cifar10_with_timm.py, gave 0.380, 0.476, 0.521, 0.562, 0.595, 0.636, 0.649, 0.675,
    0.684 and 0.684. With the paper's initial weights instead of timm's it was 0.629 in the end. An
    epoch takes four minutes of one core.
    """
    return Recipe(
        data="tfds:cifar10",
        epochs=10,
        batch_size=128,
        label_smoothing=0.1,
        model=ModelConfig(
            image_size=32,
            patch_size=4,
            hidden_dim=96,
            depth=4,
            num_heads=3,
            pooling="avg",
            initial_weights="timm",
        ),
        preprocessing=PreprocessingConfig(crop_fraction=1.0),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        schedule=ScheduleConfig(warmup_epochs=1.0),
        augmentation=Augmentation(crop="shift", shift_pixels=4, flip=True),
    )


@recipe
def folder() -> Recipe:
    """One's own images in folders, from scratch.

    keras-vit train folder --data folder:photos --workdir runs/photos

    After "How to train your ViT?" (Steiner et al., 2022): the light2 arm of augmentation for a
    small data set. The input size is that of the images, at most 224 pixels. With fewer than some
    ten thousand images, fine-tuning a checkpoint is far better:
    --model.pretrained hf://timm/vit_small_patch16_224.augreg_in21k
    """
    return Recipe(
        epochs=100,
        batch_size=128,
        label_smoothing=0.1,
        model=ModelConfig(image_size="data", drop_path_rate=0.1),
        schedule=ScheduleConfig(warmup_epochs=10.0),
        augmentation=Augmentation(
            crop="inception",
            flip=True,
            randaugment_layers=2,
            randaugment_magnitude=10.0,
            mixup=0.2,
        ),
    )
