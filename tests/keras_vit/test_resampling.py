"""Resizing of position grids and patch kernels."""

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from keras_vit.resampling import (
    RESAMPLINGS,
    resample_patch_kernel,
    resample_positions,
    resize_matrix,
)

SIZES = [(14, 24), (24, 14), (7, 7), (1, 5), (5, 1), (16, 37), (37, 16), (2, 3), (64, 13), (2, 33)]
GRIDS = [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((7, 9), (16, 5)), ((6, 4), (6, 11))]

TORCH_ARGUMENTS = {
    "bicubic_antialias": {"mode": "bicubic", "antialias": True},
    "bicubic": {"mode": "bicubic"},
    "bilinear": {"mode": "bilinear"},
    "bilinear_antialias": {"mode": "bilinear", "antialias": True},
    "bilinear_corners": {"mode": "bilinear", "align_corners": True},
}


def matrix(*arguments):
    return keras.ops.convert_to_numpy(resize_matrix(*arguments))


def random_positions(grid, dim=8, dtype="float32"):
    return np.random.default_rng(0).normal(size=(1, grid[0] * grid[1], dim)).astype(dtype)


def random_kernel(height, width):
    return np.random.default_rng(0).normal(size=(height, width, 3, 5)).astype("float32")


def torch_resize(images, size, method):
    """[N, C, h, w] -> [N, C, *size] in float64 by PyTorch."""
    torch = pytest.importorskip("torch")
    images = torch.as_tensor(np.asarray(images, "float64"))
    arguments = TORCH_ARGUMENTS[method]
    return torch.nn.functional.interpolate(images, size=size, **arguments).numpy()


def timm_layers():
    """Without a matching torchvision timm fails to import, with errors of several kinds."""
    pytest.importorskip("torch")
    try:
        from timm import layers
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    return layers


def antialiased_bicubic(size_in, size_out):
    """PyTorch's loop over output pixels, in float64."""

    def cubic(x, a=-0.5):
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    scale = size_in / size_out
    stretch = max(scale, 1.0)
    weights = np.zeros([size_out, size_in])
    for i in range(size_out):
        centre = scale * (i + 0.5)
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), size_in)
        for j in range(first, last):
            weights[i, j] = cubic((j - centre + 0.5) / stretch)
        weights[i] /= weights[i].sum()
    return weights


# The matrix.


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_equal_sizes_give_the_exact_identity(method):
    dynamic = tf.function(
        lambda size: resize_matrix(size, size, method),
        input_signature=[tf.TensorSpec([], tf.int32)],
    )
    for size in range(1, 41):
        np.testing.assert_array_equal(matrix(size, size, method), np.eye(size))
        np.testing.assert_array_equal(dynamic(size), np.eye(size))


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_rows_sum_to_one(method):
    for size_in, size_out in SIZES:
        weights = matrix(size_in, size_out, method)
        assert weights.shape == (size_out, size_in)
        assert weights.dtype == "float32"
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("method", RESAMPLINGS)
@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_dynamic_sizes_equal_python_ints(method, dtype):
    dynamic = tf.function(
        lambda size_in, size_out: resize_matrix(size_in, size_out, method),
        input_signature=[tf.TensorSpec([], dtype)] * 2,
    )
    for size_in, size_out in SIZES:
        result = dynamic(tf.constant(size_in, dtype), tf.constant(size_out, dtype))
        np.testing.assert_allclose(result, matrix(size_in, size_out, method), atol=1e-6)


def test_python_ints_keep_the_shape_static_in_a_graph():
    graph = tf.function(lambda: resize_matrix(4, 6)).get_concrete_function()
    assert graph.structured_outputs.shape == (6, 4)


def test_antialiased_bicubic_equals_the_loop():
    for sizes in [*SIZES, (224, 14), (14, 224)]:
        np.testing.assert_allclose(matrix(*sizes), antialiased_bicubic(*sizes), atol=1e-6)


def test_corners_equal_scipy_zoom():
    for size_in, size_out in SIZES:
        expected = scipy.ndimage.zoom(np.eye(size_in), (size_out / size_in, 1), order=1)
        assert expected.shape == (size_out, size_in)
        weights = matrix(size_in, size_out, "bilinear_corners")
        np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_bilinear_keeps_linear_ramps():
    for size_in, size_out in [(8, 20), (20, 8), (5, 7)]:
        ramp = matrix(size_in, size_out, "bilinear_corners") @ np.arange(size_in)
        np.testing.assert_allclose(ramp, np.linspace(0, size_in - 1, size_out), atol=1e-5)
        # Half a pixel at each end repeats the border; between them the ramp is kept.
        centres = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
        ramp = matrix(size_in, size_out, "bilinear") @ np.arange(size_in)
        np.testing.assert_allclose(ramp, np.clip(centres, 0, size_in - 1), atol=1e-5)


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_matrix_equals_torch(method):
    for size_in, size_out in [*SIZES, (224, 14), (14, 224)]:
        # The basis vectors as columns of one image, whose width does not change.
        expected = torch_resize(np.eye(size_in)[None, None], (size_out, size_in), method)[0, 0]
        np.testing.assert_allclose(matrix(size_in, size_out, method), expected, atol=1e-5)


# Positions.


@pytest.mark.parametrize("method", RESAMPLINGS)
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_positions_equal_torch(method, old, new):
    positions = random_positions(old)
    result = resample_positions(positions, old, new, method)
    assert result.shape == (1, new[0] * new[1], 8)
    expected = torch_resize(positions.reshape(1, *old, 8).transpose(0, 3, 1, 2), new, method)
    expected = expected.transpose(0, 2, 3, 1).reshape(result.shape)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_positions_equal_scipy_zoom(old, new):
    positions = random_positions(old)
    result = resample_positions(positions, old, new, "bilinear_corners")
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    expected = scipy.ndimage.zoom(positions.reshape(*old, 8), zoom, order=1)
    np.testing.assert_allclose(result, expected.reshape(result.shape), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_positions_equal_timm(old, new):
    layers = timm_layers()
    import torch

    positions = random_positions(old)
    expected = layers.resample_abs_pos_embed(
        torch.as_tensor(positions), list(new), list(old), num_prefix_tokens=0
    )
    np.testing.assert_allclose(resample_positions(positions, old, new), expected, atol=1e-5)


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_unchanged_positions_are_returned(method):
    positions = keras.ops.convert_to_tensor(random_positions((3, 5)))
    assert resample_positions(positions, (3, 5), (3, 5), method) is positions
    # As many patches in another shape are not the same grid.
    assert np.any(resample_positions(positions, (3, 5), (5, 3), method) != positions)


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_positions_of_a_dynamic_grid(method):
    positions = random_positions((4, 6))
    dynamic = tf.function(
        lambda height, width: resample_positions(positions, (4, 6), (height, width), method),
        input_signature=[tf.TensorSpec([], tf.int32)] * 2,
    )
    assert dynamic.get_concrete_function().structured_outputs.shape.as_list() == [1, None, 8]
    np.testing.assert_array_equal(dynamic(4, 6), positions)
    for grid in [(8, 3), (3, 7), (6, 4)]:
        expected = resample_positions(positions, (4, 6), grid, method)
        np.testing.assert_allclose(dynamic(*grid), expected, atol=1e-6)


def test_positions_in_a_functional_model_of_any_image_size():
    @keras.saving.register_keras_serializable("test_resampling")
    class AddPositions(keras.layers.Layer):
        def build(self, input_shape):
            self.positions = self.add_weight(shape=(1, 12, 8), initializer="random_normal")

        def call(self, maps):
            batch, height, width, dim = keras.ops.shape(maps)
            tokens = keras.ops.reshape(maps, (batch, -1, dim))
            return tokens + resample_positions(self.positions, (3, 4), (height, width))

    inputs = keras.Input([None, None, 8])
    layer = AddPositions()
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, 8)
    result = model.predict(np.zeros([2, 6, 5, 8], "float32"), verbose=0)
    expected = resample_positions(layer.positions, (3, 4), (6, 5))
    np.testing.assert_allclose(result, np.repeat(expected, 2, axis=0), atol=1e-6)
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(model(np.zeros([1, 6, 5, 8], "float32")))
    # Rows sum to 1, so together the positions get a gradient of 1 per token and channel.
    gradient = tape.gradient(loss, layer.positions.value)
    np.testing.assert_allclose(keras.ops.sum(gradient), 6 * 5 * 8, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_positions_are_resampled_in_float32(dtype):
    positions = keras.ops.cast(random_positions((4, 4)), dtype)
    result = resample_positions(positions, (4, 4), (7, 7))
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    exact = resample_positions(keras.ops.cast(positions, "float32"), (4, 4), (7, 7))
    np.testing.assert_array_equal(result, keras.ops.cast(exact, dtype))


# Patch kernels.


@pytest.mark.parametrize("method", RESAMPLINGS)
@pytest.mark.parametrize("new_patch", [(16, 16), (12, 8), (9, 20)])
def test_a_larger_patch_gives_the_same_tokens(method, new_patch):
    kernel = random_kernel(8, 8)
    patch = np.random.default_rng(1).normal(size=(8, 8, 3))
    rows, columns = (matrix(8, size, method) for size in new_patch)
    larger_patch = np.einsum("yh,xw,hwc->yxc", rows, columns, patch)
    result = resample_patch_kernel(kernel, new_patch, method)
    assert result.shape == (*new_patch, 3, 5)
    token = np.tensordot(patch, kernel, axes=3)
    np.testing.assert_allclose(np.tensordot(larger_patch, result, axes=3), token, atol=1e-3)


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_kernel_equals_the_inverse_of_the_whole_matrix(method):
    kernel = random_kernel(8, 6)
    for new_patch in [(5, 4), (11, 7), (8, 9), (4, 12)]:
        whole = np.kron(matrix(8, new_patch[0], method), matrix(6, new_patch[1], method))
        # Growing one axis and shrinking the other leaves it short of rank: the cut-off drops what
        # float32 rounding has put in place of zeros.
        inverse = np.linalg.pinv(whole.astype("float64"), rcond=1e-5)
        expected = inverse.T @ kernel.reshape(48, 15)
        result = resample_patch_kernel(kernel, new_patch, method)
        np.testing.assert_allclose(result, expected.reshape(result.shape), atol=1e-4)


@pytest.mark.parametrize("method", RESAMPLINGS)
@pytest.mark.parametrize("new_patch", [(8, 8), (32, 32), (14, 14), (12, 20)])
def test_kernel_equals_timm(method, new_patch):
    if method == "bilinear_corners":
        pytest.skip("timm does not align corners")
    layers = timm_layers()
    import torch

    kernel = random_kernel(16, 16)
    expected = layers.resample_patch_embed(
        torch.as_tensor(kernel.transpose(3, 2, 0, 1).copy()),
        list(new_patch),
        interpolation=TORCH_ARGUMENTS[method]["mode"],
        antialias=TORCH_ARGUMENTS[method].get("antialias", False),
    )
    result = resample_patch_kernel(kernel, new_patch, method)
    np.testing.assert_allclose(result.transpose(3, 2, 0, 1), expected, atol=1e-4)


def test_kernel_keeps_its_dtype_and_size():
    kernel = random_kernel(8, 8)
    assert resample_patch_kernel(kernel, (8, 8)) is kernel
    for dtype in ("float16", "float32", "float64"):
        assert resample_patch_kernel(kernel.astype(dtype), (4, 16)).dtype == dtype


# Errors.


def test_an_unknown_method_is_named():
    for call in (
        lambda: resize_matrix(2, 3, "nearest"),
        lambda: resample_positions(random_positions((2, 2)), (2, 2), (2, 2), "nearest"),
        lambda: resample_patch_kernel(random_kernel(4, 4), (4, 4), "nearest"),
    ):
        with pytest.raises(ValueError, match=r"'nearest'.*bicubic_antialias.*bilinear_corners"):
            call()


def test_positions_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"17 positions.*4x4 patches has 16"):
        resample_positions(np.zeros([1, 17, 8], "float32"), (4, 4), (8, 8))
