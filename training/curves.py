"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

from keras_vit.atomic_files import hidden_sibling, publish


def plot_curves(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: one row for each epoch, as in `metrics.csv`.
        path: of the PNG file.
        title: above the picture.

    Example:
        >>> import tempfile
        >>> row = {"epoch": 1, "loss": 1.0, "val_loss": 1.1, "top1": 0.5, "val_top1": 0.4}
        >>> path = Path(tempfile.mkdtemp()) / "curves.png"
        >>> plot_curves([row | {"learning_rate": 1e-3}], path, "one epoch")
        >>> path.stat().st_size > 0
        True
    """
    from matplotlib.figure import Figure  # 0.5 s, and only at the end of a run

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    for axis, name, label in [
        (axes[0], "loss", "loss"),
        (axes[1], "top1", "top-1 accuracy"),
    ]:
        axis.plot(epochs, [row[name] for row in history], label="training", color="#9a9a9a")
        axis.plot(epochs, [row[f"val_{name}"] for row in history], label="test", color="#1f6fb4")
        axis.set_ylabel(label)
        axis.legend(frameon=False)
    axes[1].set_title(f"test {history[-1]['val_top1']:.4f} in the last epoch", fontsize=10)
    axes[2].plot(epochs, [row["learning_rate"] for row in history], color="#1f6fb4")
    axes[2].set_ylabel("learning rate")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    with hidden_sibling(path) as temporary:
        figure.savefig(temporary, dpi=120)
        publish(temporary, path)
