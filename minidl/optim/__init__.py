"""Optimisers: rules that change parameters by their gradients. PyTorch's rules, term by term.

A training step is::

    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()

Parameters without a gradient are left as they are.
"""

from minidl.optim import lr_scheduler
from minidl.optim.clip import clip_grad_norm_
from minidl.optim.optimizer import Optimizer
from minidl.optim.rules import SGD, Adam, AdamW, RMSprop

__all__ = ["Adam", "AdamW", "Optimizer", "RMSprop", "SGD", "clip_grad_norm_", "lr_scheduler"]
