"""An encoder goes in, one ONNX file comes out, checked against torch; the command line calls it.

`nodes` writes a graph node by node, `frontend` and `network` say which nodes, `model` joins and writes them, `check`
runs the result in ONNX Runtime.
"""

from .check import TOLERANCE, deviation
from .model import Input, build, check_target, export

__all__ = ["TOLERANCE", "Input", "build", "check_target", "deviation", "export"]
