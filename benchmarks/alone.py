"""Training in a process of its own, by one of the sides, for `processes.py`.

    python benchmarks/alone.py '{"side": "minidl", "threads": 1, ...}'

Prints, as JSON, when the last step ended and the largest memory that the process had.
"""

import json
import sys
import time
from pathlib import Path


def minidl_step(threads, shape, classes, depth, root, batch_norm):
    import numpy as np

    import minidl as md
    from minidl import functional as F
    from minidl.models import UNet

    md.set_num_threads(threads)
    model = UNet(shape[-1], classes, depth=depth, root=root, batch_norm=batch_norm)
    optimiser = md.optim.Adam(model.parameters(), lr=1e-4)
    x, y = np.zeros(shape, np.float32), np.zeros(shape[:-1], np.int64)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(model(md.Tensor(x)), y).backward()
        optimiser.step()

    return step


def pytorch_step(threads, shape, classes, depth, root, batch_norm, channels_last):
    import numpy as np
    import peers
    import torch

    torch.set_num_threads(threads)
    model = peers.UNet(shape[-1], classes, depth, root, batch_norm)
    x, y = np.zeros(shape, np.float32), np.zeros(shape[:-1], np.int64)
    return peers.training_step(model, x, y, channels_last)


def peak_bytes():
    """The largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had when it started us
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main():
    settings = json.loads(sys.argv[1])
    side, steps = settings.pop("side"), settings.pop("steps")
    if side == "minidl":
        step = minidl_step(**settings)
    else:
        step = pytorch_step(**settings, channels_last="channels-last" in side)
    for _ in range(steps):
        step()
    print(json.dumps({"ended": time.time(), "peak": peak_bytes()}))


if __name__ == "__main__":
    main()
