"""Alarms that teach: what goes wrong in a training, said early, with the cause and the way out.

`Alarms` looks on while a `minidl.train.Trainer` trains. What it judges by are plain functions over
what a network does with a batch (`look`, `signs`), for use without a trainer as well.
"""

from minidl.alarms.alarm import Alarm
from minidl.alarms.look import Layer, Look, NonFinite, find_non_finite, look
from minidl.alarms.watch import Alarms, read_alarms

__all__ = [
    "Alarm",
    "Alarms",
    "Layer",
    "Look",
    "NonFinite",
    "find_non_finite",
    "look",
    "read_alarms",
]
