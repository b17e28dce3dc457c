"""Few-shot evaluation of any feature matrix, and of encoders on folders of labelled audio.

    from mtslvr.fewshot import EpisodeConfig, evaluate

    result = evaluate(features, labels, EpisodeConfig(n_way=5, n_shot=1, episodes=1000))
    print(result)  # mean accuracy ± 95% interval over clips, in percent
    result.per_class, result.accuracies

`features` is (n, D), one row a file, from any encoder; `labels` is (n,). The modules in order: `episodes`,
`classifiers`, `evaluate` work on matrices; `dataset` and `datasets` find labelled files, `cache` and `features` turn
them into matrices, `command` joins all of it for several models and sets, `results` keeps and shows what came out.
"""

from .classifiers import Classifier, classify
from .command import CompareConfig, compare
from .dataset import LabelledSet, read_set
from .datasets import DATASETS, prepare
from .episodes import EpisodeConfig, draw_episodes, published_tasks
from .evaluate import FewShotResult, Scaling, clips_interval, evaluate
from .features import extract_features, log_mel_statistics
from .results import Results, Row, read_results

__all__ = [
    "DATASETS", "Classifier", "CompareConfig", "EpisodeConfig", "FewShotResult", "LabelledSet", "Results", "Row",
    "Scaling", "classify", "clips_interval", "compare", "draw_episodes", "evaluate",
    "extract_features", "log_mel_statistics", "prepare", "published_tasks", "read_results", "read_set",
]  # fmt: skip
