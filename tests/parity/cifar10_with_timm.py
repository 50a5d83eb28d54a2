"""The recipe `cifar10_tiny` once more, in timm and PyTorch: what is our training worth?

    python tests/parity/cifar10_with_timm.py FOLDER    (train/CLASS/*, test/CLASS/*)

One JSON line for each epoch. Same architecture, augmentation, optimizer, schedule, batch size and
number of epochs, taken from the recipe; timm's own initial weights, and its usual rule that biases
and norms do not decay.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from training.recipes import RECIPES


def read(folder):
    """Pixels uint8 [N, 3, 32, 32] and labels int64 [N] of a split."""
    import torch  # here: the tests collect this file where there is no torch

    classes = sorted(path.name for path in folder.iterdir())
    files = [
        (file, i) for i, name in enumerate(classes) for file in sorted((folder / name).iterdir())
    ]
    pixels = np.stack([np.asarray(Image.open(file)) for file, _ in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([label for _, label in files])


def augment(pixels, shift):
    """Shifted by up to so many pixels, the edge repeated, and mirrored half of the time."""
    import torch

    padded = torch.nn.functional.pad(pixels.float(), [shift] * 4, mode="replicate")
    tops, lefts = torch.randint(0, 2 * shift + 1, (2, len(pixels)))
    size = pixels.shape[-1]
    images = [
        image[:, top : top + size, left : left + size]
        for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack([image.flip(-1) if torch.rand(()) < 0.5 else image for image in images])


def normalize(pixels):
    return pixels / 127.5 - 1


def main(folder):
    import torch
    from timm.models.vision_transformer import VisionTransformer

    recipe = RECIPES["cifar10_tiny"]
    torch.manual_seed(recipe.seed)
    train, labels = read(folder / "train")
    test, test_labels = read(folder / "test")
    m, o = recipe.model, recipe.optimizer
    model = VisionTransformer(
        img_size=m.image_size,
        patch_size=m.patch_size,
        embed_dim=m.hidden_dim,
        depth=m.depth,
        num_heads=m.num_heads,
        global_pool=m.pooling,
        fc_norm=False,
        num_classes=10,
    )
    decays = [p for p in model.parameters() if p.ndim >= 2 and p.shape[0] != 1]
    others = [p for p in model.parameters() if p.ndim < 2 or p.shape[0] == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0}],
        lr=o.learning_rate,
    )
    steps = -(-len(train) // recipe.batch_size)
    total, warmup = recipe.epochs * steps, recipe.schedule.warmup_epochs * steps

    def factor(step):
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for epoch in range(recipe.epochs):
        start = time.time()
        model.train()
        for batch in torch.randperm(len(train)).split(recipe.batch_size):
            images = normalize(augment(train[batch], recipe.augmentation.shift_pixels))
            loss = torch.nn.functional.cross_entropy(
                model(images), labels[batch], label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
            optimizer.step()
            schedule.step()
        seconds = time.time() - start
        model.eval()
        with torch.inference_mode():
            answers = [model(normalize(images)).argmax(-1) for images in test.split(500)]
        top1 = (torch.cat(answers) == test_labels).float().mean().item()
        row = {"epoch": epoch + 1, "top1": top1, "loss": loss.item(), "seconds": seconds}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
