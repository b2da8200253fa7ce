"""A training step gives the same bits every time, and a thousand of them take no more memory."""

import gc
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import Tensor, optim
from minidl import functional as F
from minidl.models import UNet


def _step(model, images, labels):
    """Loss of a forward and backward pass."""
    loss = F.cross_entropy(model(Tensor(images)), labels)
    loss.backward()
    return loss


def fingerprint(root, batch_norm):
    """Of the loss and all gradients of a U-Net's training step, and of its running moments."""
    rng = np.random.default_rng(root)
    model = UNet(3, 4, depth=3, root=root, batch_norm=batch_norm, rng=rng)
    images = rng.standard_normal((2, 36, 52, 3), np.float32)
    loss = _step(model, images, rng.integers(0, 4, (2, 36, 52)))
    digest = hashlib.sha256(loss.data.tobytes())
    for name, parameter in model.named_parameters():
        assert np.abs(parameter.grad).max() > 0, name
        digest.update(parameter.grad.tobytes())
    for _, buffer in model.named_buffers():
        digest.update(np.asarray(buffer).tobytes())
    return digest.hexdigest()


def _litter():
    """Fill memory that was freed, so that what is read before it is written would show."""
    for size in (1 << 10, 1 << 14, 1 << 18, 1 << 22):
        waste = [np.full(size, value, np.float32) for value in (np.nan, 3e38, -1)]
        del waste


@pytest.mark.parametrize("root, batch_norm", [(8, False), (16, False), (16, True)])
def test_same_bits_for_any_number_of_threads_and_in_every_run(threads, root, batch_norm):
    threads(1)
    expected = fingerprint(root, batch_norm)
    for count in (1, 2, 3, 2):
        threads(count)
        _litter()
        assert fingerprint(root, batch_norm) == expected, f"{count} threads"


IN_A_PROCESS = """
import sys
sys.path[:0] = {folders!r}
from minidl.kernels import parallel
from test_steady import fingerprint
parallel.SERIAL_BELOW = 0
parallel.set_num_threads({threads})
print(fingerprint(16, True))
"""


def test_same_bits_in_every_process():
    here = Path(__file__).parent
    prints = set()
    for threads in (1, 3):
        folders = [str(here), str(here.parent)]
        result = subprocess.run(
            [sys.executable, "-c", IN_A_PROCESS.format(folders=folders, threads=threads)],
            capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONHASHSEED": str(threads)},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-2000:]
        prints.add(result.stdout)
    assert prints == {fingerprint(16, True) + "\n"}


def _resident():
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells nothing of its memory")
def test_a_thousand_steps_take_no_more_memory_than_a_hundred(threads):
    """Images of three sizes in turn, so that memory that is kept for later is asked for anew."""
    threads(2)
    rng = np.random.default_rng(0)
    model = UNet(1, 2, depth=2, root=16, rng=rng)
    optimizer = optim.Adam(model.parameters())
    sizes = [(1, 32, 32), (2, 32, 32), (1, 48, 32)]
    batches = [
        (rng.standard_normal((*size, 1), np.float32), rng.integers(0, 2, size)) for size in sizes
    ]

    def steps(first, last):
        for step in range(first, last):
            optimizer.zero_grad()
            _step(model, *batches[step % len(batches)])
            optimizer.step()
        gc.collect()
        return _resident(), len(gc.get_objects())

    memory, objects = steps(0, 100)
    later_memory, later_objects = steps(100, 1000)
    assert later_memory - memory < 4e6
    assert later_objects - objects < 100
