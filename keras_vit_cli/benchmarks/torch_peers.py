"""timm in PyTorch, eager and compiled, and through ONNX Runtime and OpenVINO."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit_cli.benchmarks.runner import Task

Step = Callable[[], Any]


def _torch(task: Task) -> tuple[Any, Any]:
    """The library and the model, in the task's dtype."""
    import torch

    torch.set_num_threads(task.threads)
    with contextlib.suppress(RuntimeError):  # can only be said once
        torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    import timm

    model = timm.create_model(task.model, img_size=task.image_size)
    return torch, model


def _pixels(task: Task) -> np.ndarray:
    shape = (task.batch_size, 3, task.image_size, task.image_size)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def build_eager(task: Task) -> tuple[Step, dict[str, Any]]:
    """Set timm up as it is.

    Args:
        task: of any kind.

    Returns:
        The step, and what there is to say about it.

    Raises:
        ValueError: for data of which timm has no loader.
    """
    if task.kind == "input":
        return _input(task)
    return _steps(task, lambda model: model)


def build_compiled(task: Task) -> tuple[Step, dict[str, Any]]:
    """Set timm up with `torch.compile`.

    Args:
        task: of kind "inference", "images" or "training".

    Returns:
        The step, and what there is to say about it.
    """
    import torch

    return _steps(task, torch.compile)


def _steps(task: Task, prepare: Callable[[Any], Any]) -> tuple[Step, dict[str, Any]]:
    torch, model = _torch(task)
    about = {"torch": torch.__version__}
    if task.kind == "training":
        return _training(task, torch, prepare(model)), about
    dtype = getattr(torch, task.dtype)
    network = prepare(model.eval().to(dtype))
    if task.kind == "images":
        return _images(task, torch, model, network, dtype), about
    images = torch.from_numpy(_pixels(task)).to(dtype)

    def step() -> Any:
        with torch.inference_mode():
            return network(images).float().softmax(-1)

    return step, about


def _images(task: Task, torch: Any, model: Any, network: Any, dtype: Any) -> Step:
    """JPEG bytes to labels, by timm's own evaluation transform, in one process."""
    import io

    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    data = [Path(file).read_bytes() for file in task.options["files"]]
    batch = [data[i % len(data)] for i in range(task.batch_size)]

    def step() -> Any:
        images = [transform(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in batch]
        with torch.inference_mode():
            probabilities = network(torch.stack(images).to(dtype)).float().softmax(-1)
        return probabilities.topk(10)

    return step


def _input(task: Task) -> tuple[Step, dict[str, Any]]:
    """Timm's loader with Pillow: the same crop, flip and RandAugment, in as many processes."""
    import torch
    from timm.data import create_dataset, create_loader

    kind, _, folder = task.options["data"].partition(":")
    if kind != "folder":
        raise ValueError(f"timm reads folder:PATH, not {task.options['data']}")
    root = Path(folder) / "train" if (Path(folder) / "train").is_dir() else Path(folder)
    layers, magnitude = task.options["layers"], task.options["magnitude"]
    no_jitter: Any = None  # the types of timm say float
    loader = create_loader(
        create_dataset("", root=str(root)),
        input_size=(3, task.image_size, task.image_size),
        batch_size=task.batch_size,
        is_training=True,
        use_prefetcher=False,
        scale=(0.05, 1.0),
        color_jitter=no_jitter,
        interpolation="bilinear",
        auto_augment=f"rand-m{magnitude:g}-n{layers}" if layers else None,
        num_workers=task.threads,
        persistent_workers=True,
    )

    def forever() -> Any:
        while True:
            yield from loader

    steps = forever()
    return lambda: next(steps), {"torch": torch.__version__}


def _training(task: Task, torch: Any, network: Any) -> Step:
    """Forward, backward and AdamW on one batch; bfloat16 by autocast, as timm's script does."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05)
    images = torch.from_numpy(_pixels(task))
    labels = torch.from_numpy(np.random.default_rng(2).integers(0, 1000, task.batch_size))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=task.dtype == "bfloat16"):
            logits = network(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def build_onnx(task: Task) -> tuple[Step, dict[str, Any]]:
    """Set timm's model up in ONNX Runtime, in float32.

    Args:
        task: of kind "inference".

    Returns:
        The step, and what there is to say about it.

    Raises:
        ValueError: for another kind or dtype, which ONNX Runtime does not have on processors.
    """
    if task.kind != "inference" or task.dtype != "float32":
        raise ValueError(f"no {task.kind} in {task.dtype} on the processor")
    torch, model = _torch(task)
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model.eval(), (torch.from_numpy(_pixels(task)),), path, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    name, images = session.get_inputs()[0].name, _pixels(task)
    about = {"onnxruntime": onnxruntime.__version__}
    return lambda: session.run(None, {name: images}), about


def build_openvino(task: Task) -> tuple[Step, dict[str, Any]]:
    """Set timm's model up in OpenVINO.

    Args:
        task: of kind "inference".

    Returns:
        The step, and what there is to say about it.

    Raises:
        ValueError: for another kind.
    """
    if task.kind != "inference":
        raise ValueError(f"no {task.kind}")
    torch, model = _torch(task)
    import openvino

    images = _pixels(task)
    converted = openvino.convert_model(model.eval(), example_input=torch.from_numpy(images))
    settings = {
        "INFERENCE_NUM_THREADS": task.threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[task.dtype],
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()
    about = {"openvino": openvino.__version__}
    return lambda: request.infer({0: images}), about
