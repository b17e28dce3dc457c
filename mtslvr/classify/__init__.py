"""Labelled examples in, a classifier out, labels with times of any recordings; `mtslvr classify` on the command line.

`labels` reads and writes tables of labels, `examples` cuts and embeds what they name, `choose` finds the features that
the task wants, `classifier` is what stands in a file, `events` joins windows. `predict` goes
over stored embeddings, `output` writes labels, `clips` and `page` are what a person listens to and looks at.
"""

from .choose import Candidate, Choice
from .classifier import Classifier
from .events import EventConfig, find_events
from .examples import Examples
from .labels import Label, read_labels

__all__ = ["Candidate", "Choice", "Classifier", "EventConfig", "Examples", "Label", "find_events", "read_labels"]
