"""`keras-vit explain`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from keras_vit_cli.arguments import call
from keras_vit_cli.explanations import compute, draw
from keras_vit_cli.sources import open_model

if TYPE_CHECKING:
    from keras_vit import VisionTransformer

Method = Literal[
    "attribution", "rollout", "attention", "features", "distance", "positions", "filters"
]
_WITHOUT_IMAGES = ("positions", "filters")
_PICTURES = (".png", ".jpg", ".pdf", ".svg")
_ARRAYS = (".npy", ".npz")


def explain(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE …")],
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")],
    output: Annotated[Path, tyro.conf.arg(metavar="OUT")],
    method: Method = "attribution",
    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME_OR_ID")] = None,
    limit: int = 48,
    image_size: int | None = None,
    architecture: str | None = None,
) -> None:
    """Draw what a model looks at: the patches that an answer was made of, and more.

    What is drawn is the image as the model sees it, after resize and crop. One image gives a large
    picture; several, or a folder, a contact sheet. The methods are:

    attribution: the patches that speak for a class, by attention and gradients (Chefer et al.,
    2021). The only one that depends on the class.

    rollout: the patches that reach what the head sees, by attention alone (Abnar & Zuidema, 2020).

    attention: where the last block looks, head by head for one image, their mean for several.

    features: the first three principal components of the patches' features as colours; one colour
    means one thing in all images.

    distance: how far every head looks, in pixels, over the depth; the mean of all images.

    positions: how alike the learned positions are; needs no FILE.

    filters: the principal components of the patch embedding's filters; needs no FILE.

    For example: keras-vit explain cat.jpg --model runs/photos --output cat.png --class cat

    Args:
        files: images (JPEG, PNG, GIF or BMP), folders with all that is below them, or patterns in
            quotes.
        model: a training workdir, a .keras file, or any checkpoint: .npz, .safetensors, a folder of
            timm or transformers, hf://org/name, https://… or gs://…
        output: a picture (.png, .jpg, .pdf or .svg); or the arrays: .npy the maps alone, [images,
            rows, columns] over patches, .npz also files and classes.
        method: what to draw.
        class_: the class that attribution explains, by name or by number; the predicted one if left
            out.
        limit: of a longer list of images, only so many are taken, from the first on.
        image_size: another input size than the model's own; positions are resampled.
        architecture: a timm name, for arrays that do not say of which model they are.
    """
    if output.suffix.lower() not in _PICTURES + _ARRAYS:
        raise ValueError(
            f"--output {output}: its end says what to write, {', '.join(_PICTURES)} for a picture "
            f"or {', '.join(_ARRAYS)} for arrays."
        )
    if output.is_dir():
        raise ValueError(f"--output {output} is a directory: give a file.")
    if class_ is not None and method != "attribution":
        raise ValueError(f"--class is for --method attribution; {method} is the same for all.")
    names, encoded = read_images(files, limit) if method not in _WITHOUT_IMAGES else ([], [])
    loaded = open_model(model, architecture, image_size)
    class_id = None if class_ is None else find_class(class_, loaded.num_classes, loaded.labels)
    images = _as_seen(loaded, encoded)
    arrays = compute(loaded, images, method, class_id)
    if output.suffix.lower() in _ARRAYS:
        _write_arrays(output, method, arrays | ({"files": np.array(names)} if names else {}))
    else:
        from keras_vit.explain.pictures import save_figure

        save_figure(draw(loaded, images, method, arrays, names), output)
    of = f" of {len(names)} image{'s' * (len(names) > 1)}" if names else ""
    print(f"{output}: {method}{of}")


def read_images(files: Sequence[str], limit: int) -> tuple[list[str], list[bytes]]:
    """Read image files, and make sure that they are images.

    Args:
        files: as the command line takes them.
        limit: how many at most.

    Returns:
        Their paths, and their encoded bytes. What is no image is left out with a note on standard
        error, if it was found in a folder or by a pattern.

    Raises:
        ValueError: if a file that was named is no image, or there are no images.

    Example:
        >>> read_images((), 10)
        Traceback (most recent call last):
        ...
        ValueError: No image was given: keras-vit explain FILE … --model MODEL --output out.png
    """
    if not files:
        raise ValueError(
            "No image was given: keras-vit explain FILE … --model MODEL --output out.png"
        )
    if limit < 1:
        raise ValueError(f"--limit must be at least 1, not {limit}.")
    import tensorflow as tf

    from serving.offline.images import check_name, find_files
    from training.data.decodable import undecodable_reason

    for file in files:
        check_name(file)
        if not any(sign in file for sign in "*?[") and not tf.io.gfile.exists(file):
            raise ValueError(
                f"There is no file {file}: give image files, folders or patterns in quotes."
            )
    found = find_files(files)
    report = functools.partial(print, file=sys.stderr)
    names: list[str] = []
    encoded: list[bytes] = []
    for name, image_bytes in found:
        if len(names) == limit:
            report(f"taking the first {limit} of {len(found)} images; --limit takes more")
            break
        if reason := undecodable_reason(image_bytes):
            if name in files:
                raise ValueError(f"{name} cannot be read as an image: {reason}.")
            report(f"leaving out {name}: {reason}")
            continue
        names.append(name)
        encoded.append(image_bytes)
    if not names:
        raise ValueError(f"None of the {len(found)} files in {', '.join(files)} is an image.")
    return names, encoded


def find_class(text: str, num_classes: int, labels: Sequence[str] | None) -> int:
    """The number of a class.

    Args:
        text: its name, or one of the names that are separated by commas in its label, in any case;
            or its number.
        num_classes: of the model.
        labels: of the model, if it has any.

    Returns:
        The number, in [0, num_classes).

    Raises:
        ValueError: if there is no such class, or several have the name; the message helps.

    Example:
        >>> find_class("Tinca tinca", 2, ["tench, Tinca tinca", "goldfish, Carassius auratus"])
        0
    """
    wanted = text.strip().lower()
    known: dict[str, list[int]] = {}
    for index, label in enumerate(labels or ()):
        for name in dict.fromkeys([label.lower(), *label.lower().split(", ")]):
            known.setdefault(name, []).append(index)
    found = known.get(wanted, [])
    if len(found) > 1:
        raise ValueError(
            f"--class {text}: the classes {', '.join(map(str, found))} have that name; give one of "
            f"these numbers."
        )
    if found:
        return found[0]
    if wanted.isdecimal() and int(wanted) < num_classes:
        return int(wanted)
    import difflib

    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"; near are {', '.join(near)}" if near else ""
    if not hint and labels and len(labels) <= 12:
        hint = f"; it has {', '.join(labels)}"
    raise ValueError(
        f"--class {text}: the model has no such class{hint}. Give a name, or a number from 0 to "
        f"{num_classes - 1}."
        if num_classes
        else f"--class {text}: the model has no head, so it knows no classes."
    )


def _as_seen(model: VisionTransformer, encoded: Sequence[bytes]) -> np.ndarray:
    """What the model sees of encoded images, float32 [N, H, W, 3]."""
    images = [np.asarray(model.preprocessing(image_bytes)) for image_bytes in encoded]
    shape = (0, *model.preprocessing.output_shape)
    return np.stack(images) if images else np.zeros(shape, "float32")


def _write_arrays(path: Path, method: str, arrays: dict[str, Any]) -> None:
    from keras_vit.atomic_files import hidden_sibling, publish

    with hidden_sibling(path) as temporary:
        with temporary.open("wb") as file:  # from a name numpy would make one of its own
            if path.suffix.lower() == ".npy":
                np.save(file, arrays[method])
            else:
                np.savez_compressed(file, **arrays)
        publish(temporary, path)


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(explain, "explain", arguments)
