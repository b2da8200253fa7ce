"""Train a U-Net by a loop of one's own, on invented ultrasound frames. Takes half a minute.

``minidl train`` does the same with checkpoints, curves and a progress line.
"""

import tempfile
from pathlib import Path

import numpy as np

import minidl as md
from minidl import data, metrics, optim
from minidl import functional as F
from minidl.models import UNet


def main(steps: int = 250, seed: int = 0, frames: int = 90) -> float:
    """Train, print the loss on the way, and return the Dice of the nerve in other frames."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = data.find_pairs(data.write_nerve_set(Path(folder) / "set", n=frames, seed=seed))
        kind = data.MaskKind(".tif", values=(0, 255))
        train = data.Dataset(pairs[: frames * 4 // 5], kind)
        test = data.Dataset(pairs[frames * 4 // 5 :], kind, train.normaliser)

        md.manual_seed(seed)
        model = UNet(in_channels=1, num_classes=2, depth=4, root=8)
        optimizer = optim.Adam(model.parameters(), lr=5e-3)
        scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        stream = data.batches(train, batch_size=8, crop=96, seed=seed, steps=steps)
        for step, (images, labels) in enumerate(stream, 1):
            scores = model(images)
            loss = F.cross_entropy(scores, labels)
            loss += F.dice_loss(scores, labels, batch=True, include_background=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if step % 10 == 0:
                print(f"step {step}/{steps}  loss {loss.item():.3f}", flush=True)

        model.eval()
        matrix = np.zeros((2, 2), dtype=np.int64)
        for index in range(len(test)):
            image, label = test[index]
            with md.no_grad():
                classes = model(image[None]).numpy()[0].argmax(axis=-1)
            matrix += metrics.confusion_matrix(classes, label, 2)
    dice = float(metrics.dice(matrix)[1])
    print(f"Dice of the nerve in {len(test)} frames it never saw: {dice:.3f}")
    return dice


if __name__ == "__main__":
    main()
