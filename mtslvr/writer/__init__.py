"""Embeddings, names and times come in, one output goes out; `job` and the command line call it.

`files` says where and in which format; `recorder` and `store` hold what is finished while a run is on, and `state` says
whether a later one may go on; `export` makes the output from it, `table` reads any output back. No pickles: strings are
unicode arrays, settings JSON.
"""

from .export import write_npz
from .files import STDOUT, Format, check_output, parse_format, sidecar
from .recorder import Recorder
from .state import DEFAULTS, FileEntry, FileStat, State, check_earlier, differences
from .store import read_state
from .table import FORMAT_VERSION, KEYS, EmbeddingTable, read_npz, read_table

__all__ = [
    "DEFAULTS",
    "FORMAT_VERSION",
    "KEYS",
    "STDOUT",
    "EmbeddingTable",
    "FileEntry",
    "FileStat",
    "Format",
    "Recorder",
    "State",
    "check_earlier",
    "check_output",
    "differences",
    "parse_format",
    "read_npz",
    "read_state",
    "read_table",
    "sidecar",
    "write_npz",
]
