"""A fully connected CRF after a network: coarse, noisy scores become borders. Takes a second.

Image, scores and truth are invented here: two berries and a leaf, and a "network" that sees them
eight times smaller, with noise. Writes a picture of all three steps, the true borders in white.

::

    python examples/dense_crf.py [OUT.png]
"""

import argparse
from pathlib import Path

import numpy as np

import minidl as md
from minidl import crf, metrics, plot
from minidl import functional as F

NAMES = "background", "berry", "leaf"
COLOURS = np.array([[205, 190, 160], [170, 40, 60], [70, 130, 60]])
STRIDE = 8  # of the network that we pretend to have


def invent(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3), uint8, with uneven light and noise, and its true labels (H, W)."""
    y, x = np.mgrid[:height, :width] / height
    labels = np.zeros((height, width), int)
    labels[(x - 0.75) ** 2 + 4 * (y - 0.5 + 0.25 * np.sin(4 * x)) ** 2 < 0.3] = 2
    for centre_x, centre_y, radius in ((0.42, 0.4, 0.2), (0.95, 0.62, 0.24)):
        labels[(x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2] = 1
    light = 0.85 + 0.3 * x * y
    image = COLOURS[labels] * light[..., None] + rng.normal(0, 6, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def network(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probabilities (H, W, C) as of a network that has pooled: small, unsure, and blown up."""
    small = np.eye(len(NAMES))[labels[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]]
    scores = 2.5 * small + rng.normal(0, 1, small.shape)
    logits = F.interpolate(md.Tensor(scores[None]), size=labels.shape, mode="bilinear")
    logits += rng.normal(0, 0.5, logits.shape)
    return F.softmax(logits, axis=-1).numpy()[0]


def mean_iou(classes: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of intersection over union."""
    return metrics.mean_iou(metrics.confusion_matrix(classes, labels, len(NAMES)))


def main(out: Path, height: int = 240, width: int = 320, seed: int = 0) -> tuple[float, float]:
    """Write the picture; returns the mean IoU of the network and that after the CRF."""
    from matplotlib.figure import Figure

    rng = np.random.default_rng(seed)
    image, labels = invent(height, width, rng)
    probabilities = network(labels, rng)
    before = probabilities.argmax(axis=-1)
    after = crf.dense_crf(probabilities, image, theta_alpha=40, theta_beta=10).argmax(axis=-1)
    scores = mean_iou(before, labels), mean_iou(after, labels)

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    titles = "image", f"network: mean IoU {scores[0]:.3f}", f"with CRF: mean IoU {scores[1]:.3f}"
    pictures = image, COLOURS[before], COLOURS[after]
    for axis, title, picture in zip(figure.subplots(1, 3), titles, pictures, strict=True):
        axis.imshow(picture.astype(np.uint8), interpolation="nearest")
        if picture is not image:  # where the true borders are
            axis.contour(labels, levels=[0.5, 1.5], colors="white", linewidths=0.8)
        axis.set(title=title, xticks=[], yticks=[])
    print(f"mean IoU {scores[0]:.3f} -> {scores[1]:.3f}, see {plot.write_figure(figure, out)}")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("dense_crf.png"), help="picture")
    main(parser.parse_args().out)
