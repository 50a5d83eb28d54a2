"""Pictures: that maps lie where the patches are, and that files hold something."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_vit.explain import pictures, plots


def test_images_are_shown_as_they_were(tiny_model, photo):
    """What the crop of the preprocessing leaves, with its normalisation undone."""
    model = tiny_model(image_size=(16, 32))
    model.preprocessing = model.preprocessing.replace(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    pixels = photo(60, 80)
    got = pictures.display_images(model, np.asarray(model.preprocessing.from_pixels(pixels))[None])
    assert got.shape == (1, 16, 32, 3)
    want = np.asarray(model.preprocessing.resize(pixels)) / 255
    np.testing.assert_allclose(got[0], want, atol=1e-5)
    grey = tiny_model(num_channels=1)
    with pytest.raises(ValueError, match="Only images of 3 channels"):
        pictures.display_images(grey, np.zeros((1, 16, 16, 1)))


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_map_lies_over_its_patches(tiny_model, channels):
    model = tiny_model(image_size=None, position_grid=(4, 4), patch_size=(4, 8),
                       allow_remainder=True)  # fmt: skip
    maps = np.zeros((2, 3, 4, *channels))
    maps[0, 2, 1] = 1
    maps[1, 0, 3] = 1
    got = pictures.fit_maps(model, maps, (15, 33))  # 3 rows and 1 column are not seen
    assert got.shape == (2, 15, 33, *channels)
    assert np.isnan(got[:, 12:]).all()
    assert np.isnan(got[:, :, 32:]).all()
    seen = got[:, :12, :32].reshape(2, 3, 4, 4, 8, -1).max(-1)  # rows, pixels, columns, pixels
    by_patch = seen.mean((2, 4))
    for index in range(2):
        assert by_patch[index].argmax() == maps[index].reshape(12, -1).max(-1).argmax()
    assert got[0, 9:11, 11:13].min() > 0.7  # the middle of row 2, column 1
    with pytest.raises(ValueError, match="3 x 4 patches, but the maps have 4 x 4"):
        pictures.fit_maps(model, np.zeros((1, 4, 4)), (15, 33))


def test_a_map_of_one_value_stays_it(tiny_model):
    fitted = pictures.fit_maps(tiny_model(), np.full((1, 4, 4), 0.3), (16, 16))
    np.testing.assert_allclose(fitted, 0.3, rtol=1e-6)


def figures():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(5, 12, 20, 3))
    maps = rng.uniform(size=(5, 12, 20))
    yield pictures.draw_overlay(images[0], maps[0], "a cat", "relevance"), 3
    yield pictures.draw_overlay(images[0], images[1]), 2
    yield pictures.draw_sheet(images, maps, list("abcde"), "share"), 11
    yield pictures.draw_sheet(images, images), 10
    yield pictures.draw_sheet(images[:1], maps[:1]), 3
    yield pictures.draw_heads(images[0], maps, "a cat", "attention"), 8
    yield plots.draw_distances(rng.uniform(size=(12, 3)), (12, 20)), 1
    yield plots.draw_distances(rng.uniform(size=(1, 24)), (12, 20)), 1
    yield plots.draw_positions(rng.uniform(-1, 1, size=(3, 5, 3, 5))), 2
    yield plots.draw_positions(rng.uniform(-1, 1, size=(20, 4, 20, 4))), 2
    yield plots.draw_filters(rng.normal(size=(9, 4, 6, 3))), 1
    yield plots.draw_filters(rng.normal(size=(3, 4, 6, 1))), 1


def test_every_figure_is_written_and_not_empty(tmp_path):
    for index, (figure, axes) in enumerate(figures()):
        assert len(figure.axes) == axes, index
        path = tmp_path / "new" / f"{index}.png"
        pictures.save_figure(figure, path)
        pixels = np.asarray(Image.open(path).convert("L"), float)
        assert min(pixels.shape) > 100
        assert pixels.std() > 10, index
    assert len(list((tmp_path / "new").iterdir())) == index + 1  # no half-written ones


def test_the_hottest_pixel_of_the_picture_is_where_the_map_says(tmp_path):
    heat = np.zeros((8, 8))
    heat[6, 1] = 1
    figure = pictures.draw_overlay(np.zeros((8, 8, 3)), heat)
    right = figure.axes[1]
    pictures.save_figure(figure, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"), float)
    column, row = right.transData.transform((1, 6))
    row = pixels.shape[0] - row
    box = right.get_window_extent()
    inside = pixels[int(pixels.shape[0] - box.y1) : int(pixels.shape[0] - box.y0),
                    int(box.x0) : int(box.x1)]  # fmt: skip
    assert pixels[int(row), int(column)] == inside[2:-2, 2:-2].max() > 100
    assert np.median(inside) < 10


@pytest.mark.parametrize("size", [(8, 8), (64, 4), (4, 64)])
def test_titles_lie_within_the_figure_and_beside_each_other(size):
    """Names are shown as they are, also those that would be formulas, and cut if need be."""
    name = "a$x^$b_{.jpg\n" + "tench, Tinca tinca, " * 9
    image, maps = np.zeros((*size, 3)), np.zeros((12, *size))
    for figure in (
        pictures.draw_overlay(image, maps[0], name, "relevance"),
        pictures.draw_heads(image, maps, name, "attention"),
        pictures.draw_sheet(np.zeros((7, *size, 3)), maps[:7], [name] * 7, "share"),
    ):
        figure.savefig(io.BytesIO(), dpi=100)
        texts = [figure._suptitle] if figure._suptitle else []
        texts += [part for axis in figure.axes for part in (axis.title, axis._left_title)]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert boxes
        for box in boxes:
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert any("a$x^$b_{" in text.get_text() for text in texts)


@pytest.mark.parametrize("grid", [(1, 1), (32, 2), (2, 40), (37, 37)])
def test_positions_of_any_grid_make_a_picture_of_a_size_to_look_at(grid):
    figure = plots.draw_positions(np.zeros((*grid, *grid)))
    assert max(figure.get_size_inches()) < 8
    assert min(figure.get_size_inches()) > 2
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert rows == [str(row) for row in range(0, grid[0], -(-grid[0] // 16))]


def test_heads_have_colours_of_their_own():
    figure = plots.draw_distances(np.zeros((3, 16)), (224, 224))
    assert len({line.get_color() for line in figure.axes[0].lines}) == 17  # and their mean


def test_filters_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="not over 4"):
        plots.draw_filters(np.zeros((2, 4, 4, 4)))


def test_no_window_is_opened():
    from matplotlib import pyplot

    assert len(list(figures())) > 10
    assert pyplot.get_fignums() == []
