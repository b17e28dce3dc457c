"""What the paper looks at beside accuracy, and how results are shown.

`invariance` measures how far the transformations of training move each embedding, `pictures` draws results and `report`
puts them on one page. The few-shot measurements themselves are `mtslvr.fewshot`.
"""

from .invariance import Invariance, InvarianceConfig, invariance, read_invariance
from .report import report

__all__ = ["Invariance", "InvarianceConfig", "invariance", "read_invariance", "report"]
