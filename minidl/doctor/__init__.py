"""What is wrong with a data set, and how to train on it: before an hour is lost, not after.

`doctor` is what the command does; `examine` reads and judges; `write_page` makes the HTML page.
"""

from .advice import Advice, class_frequencies, median_frequency_weights
from .diagnosis import Diagnosis, doctor, examine
from .findings import Finding
from .page import write_page

__all__ = [
    "Advice",
    "Diagnosis",
    "Finding",
    "class_frequencies",
    "doctor",
    "examine",
    "median_frequency_weights",
    "write_page",
]
