"""Labelled examples in, a classifier out, labels with times of any recordings; `mtslvr classify` on the command line.

`folders` finds examples, `labels` reads tables of them, `examples` cuts and embeds what they name, `choose` finds the
features that the task wants, `classifier` is what stands in a file, `events` joins windows. `predict` goes over stored
embeddings, `output` writes labels, `clips` are what a person listens to.
"""

from .choose import Candidate, Choice
from .classifier import Classifier
from .events import EventConfig, find_events
from .examples import Examples
from .labels import Label, read_labels

__all__ = ["Candidate", "Choice", "Classifier", "EventConfig", "Examples", "Label", "find_events", "read_labels"]
