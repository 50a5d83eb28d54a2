"""The rectangle on the page is the one that the preprocessing cuts out."""

import json

import numpy as np
import pytest

from keras_vit import Preprocessing, VisionTransformer
from serving.card_file import CARD_FILE
from serving.model_card import Origin, model_card
from serving.page.placement import Rectangle, covered, crop, read_card

SPECS = [
    Preprocessing(224),
    Preprocessing(224, crop_fraction=1.0),
    Preprocessing(224, crop_fraction=0.875, interpolation="bilinear"),
    Preprocessing(224, resize_mode="squash"),
    Preprocessing((160, 96), crop_fraction=0.95),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.resize_mode}{spec.crop_fraction}")
@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (333, 1000), (64, 64)])
def test_a_point_of_the_image_is_found_where_the_rectangle_says(spec, height, width):
    """Paint a spot, preprocess, and go back from where it is then through the rectangle."""
    seen = crop(spec.get_config(), height, width)
    rows, columns, _ = spec.output_shape
    for share_y, share_x in [(0.3, 0.6), (0.8, 0.1), (0.5, 0.5)]:
        y = (seen.top + share_y * seen.height) * height
        x = (seen.left + share_x * seen.width) * width
        grid_y, grid_x = np.mgrid[:height, :width] + 0.5
        radius = min(height * seen.height, width * seen.width) / 30
        spot = np.exp(-(((grid_y - y) ** 2 + (grid_x - x) ** 2) / radius**2))
        image = np.repeat((250 * spot)[:, :, None], 3, axis=2).astype("uint8")
        mass = np.asarray(spec.resize(image), np.float64)[:, :, 0]
        found_y = (mass.sum(1) @ (np.arange(rows) + 0.5)) / mass.sum() / rows
        found_x = (mass.sum(0) @ (np.arange(columns) + 0.5)) / mass.sum() / columns
        assert abs(found_y - share_y) < 0.01
        assert abs(found_x - share_x) < 0.01


def test_the_whole_image_and_its_centre():
    spec = Preprocessing(32, crop_fraction=1.0).get_config()
    assert crop(spec, 64, 64) == Rectangle(0, 0, 1, 1)
    assert crop(spec, 64, 128) == Rectangle(0.25, 0, 0.5, 1)
    assert crop(spec | {"resize_mode": "pad"}, 64, 128) == Rectangle(0, -0.5, 1, 2)
    assert crop(spec, 1, 10_000) == crop(spec, 2, 20_000)


def test_pixels_that_are_left_over_lie_outside():
    whole = Rectangle(0.0, 0.0, 1.0, 1.0)
    arguments = {"hidden_dim": 16, "depth": 1, "num_heads": 2}
    model = VisionTransformer((27, 20), 8, allow_remainder=True, **arguments)
    card = model_card(model, "float32", None, 1, Origin())
    assert covered(card, whole, 3, 2) == Rectangle(0, 0, 16 / 20, 24 / 27)
    model = VisionTransformer((24, 16), 8, **arguments)
    assert covered(model_card(model, "float32", None, 1, Origin()), whole, 3, 2) == whole


def test_cards(tmp_path):
    model = VisionTransformer(16, 8, hidden_dim=16, depth=1, num_heads=2)
    card = json.loads(json.dumps(model_card(model, "float32", None, 1, Origin())))
    file = tmp_path / "0007" / CARD_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(card))
    assert read_card(str(tmp_path), 7) == card
    assert read_card(str(tmp_path), 8) is None
    assert read_card("gs://bucket/photos", 7) is None
    assert read_card(None, 7) is None
    for damaged in ("", "{}", "[1]", '{"preprocessing": {"image_size": 3}}'):
        file.write_text(damaged)
        assert read_card(str(tmp_path), 7) is None
