"""Starting from a checkpoint."""

from __future__ import annotations

import dataclasses

from training.augmentation.config import Augmentation
from training.config import ModelConfig, Recipe
from training.optimization.config import LoraConfig, OptimizerConfig, ScheduleConfig
from training.recipes.registry import recipe


@recipe
def finetune() -> Recipe:
    r"""Fine-tuning as in vision_transformer (the JAX code of the paper).

    keras-vit train finetune --data tfds:cifar10 --workdir runs/cifar10 \
        --model.pretrained gs://vit_models/imagenet21k/ViT-B_16.npz

    The authors report 98.9 % on CIFAR-10 and 91.9 % on CIFAR-100 (10,000 steps); for pets and
    flowers 500 steps, --steps 500 --schedule.warmup-steps 100. Not run here. The learning rate is
    worth a search: 0.001, 0.003, 0.01, 0.03.
    """
    return Recipe(
        steps=10_000,
        batch_size=512,
        accumulation=8,
        model=ModelConfig(
            pretrained="gs://vit_models/imagenet21k/ViT-B_16.npz",
            image_size=384,
        ),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.03, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_steps=500),
        augmentation=Augmentation(crop="resize_squash", flip=True),
    )


@recipe
def finetune_imagenet() -> Recipe:
    r"""The paper's fine-tuning on ImageNet at 384 pixels (Dosovitskiy et al., 2021, Table 4).

    keras-vit train finetune_imagenet --data-dir gs://my-bucket/tfds --workdir runs/ft \
        --model.pretrained gs://vit_models/imagenet21k/ViT-B_16.npz

    The authors report 84.5 % top-1 for this checkpoint. Not run here.
    """
    return dataclasses.replace(
        finetune(),
        data="tfds:imagenet2012",
        steps=20_000,
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.03, weight_decay=0.0, ema=0.9999),
        augmentation=Augmentation(crop="inception", flip=True),
    )


@recipe
def linear_probe() -> Recipe:
    r"""A linear layer on the frozen features of a checkpoint, with augmentation.

    keras-vit train linear_probe --data folder:photos --workdir runs/probe \
        --model.pretrained hf://timm/vit_small_patch14_dinov2.lvd142m --model.image-size 224

    Without augmentation `keras-vit probe` gives an answer in a fraction of the time. Expect less
    than from fine-tuning, and far more than from scratch when images are few.
    """
    return Recipe(
        epochs=30,
        batch_size=256,
        model=ModelConfig(pretrained="hf://timm/vit_small_patch14_dinov2.lvd142m", image_size=224),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            weight_decay=0.0,
            clip_norm=None,
            frozen=(r"(?!(head|distillation_head)/).*",),
        ),
        schedule=ScheduleConfig(warmup_epochs=0.0),
        augmentation=Augmentation(crop="inception", crop_area=(0.25, 1.0), flip=True),
    )


@recipe
def lora() -> Recipe:
    r"""Low-rank fine-tuning ("LoRA", Hu et al., 2021): little optimizer memory, few images.

    keras-vit train lora --data folder:photos --workdir runs/lora \
        --model.pretrained hf://timm/vit_base_patch16_224.augreg_in21k

    `model.keras` is the merged model. Expect about what full fine-tuning gives, with less than a
    hundredth of the parameters trained.
    """
    return Recipe(
        epochs=20,
        batch_size=128,
        label_smoothing=0.1,
        model=ModelConfig(pretrained="hf://timm/vit_base_patch16_224.augreg_in21k"),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.01),
        schedule=ScheduleConfig(warmup_epochs=1.0),
        augmentation=Augmentation(crop="inception", crop_area=(0.25, 1.0), flip=True),
        lora=LoraConfig(rank=8),
    )
