import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import mtslvr

PACKAGE = Path(mtslvr.__file__).parent

# From the lowest to the highest: a room imports only lower ones, see docs/architecture.md.
ROOMS = (
    "errors", "workers", "config", "audio", "nn", "models", "run", "writer", "api", "onnx", "hear", "sklearn", "ray",
    "search", "classify", "fewshot", "training", "analysis", "cli",
)  # fmt: skip
LEVELS = {"__init__": ROOMS.index("api"), **{name: level for level, name in enumerate(ROOMS)}}
PUBLIC = [
    "AdapterKind", "AudioError", "CheckpointError", "Classifier", "ConfigError", "Embeddings", "Encoder",
    "EncoderConfig", "Features", "FrontendConfig", "HubError", "Layer", "MTSLVRError", "Normalization", "Phase",
    "TrainingError", "embed", "embed_files", "embed_windows", "list_models", "load", "read_table",
]  # fmt: skip
KEPT_OUT = ("torchaudio", "sklearn", "scipy", "pandas", "matplotlib", "click", "tqdm")
# The bar of `embed_files` and frames of a table, where they are asked for.
USED_WHEN_CALLED = {("api", "tqdm"), ("run", "pandas")}
CORE = ROOMS[: ROOMS.index("sklearn")]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path):
    """The module, or the subpackage, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(our parts, other top-level packages) imported anywhere in a file, inside functions too."""
    depth = len(path.relative_to(PACKAGE).parts) - 1
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level and node.level <= depth:  # stays in the subpackage
            names.add(f"mtslvr.{part(path)}")
        elif isinstance(node, ast.ImportFrom):
            home = f"mtslvr.{node.module}" if node.level and node.module else node.module or "mtslvr"
            names.update(f"{home}.{alias.name}" if home == "mtslvr" else home for alias in node.names)
    ours = {name.split(".")[1] for name in names if name.startswith("mtslvr.")}
    return ours, {name.split(".")[0] for name in names} - {"mtslvr"}


def fresh(code):
    """The JSON that `code` prints in a new interpreter, which says nothing else."""
    # Torch 2.4 warns of itself.
    options = ["-W", "error::DeprecationWarning:mtslvr", "-W", "ignore::FutureWarning:torch._export.utils"]
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    return json.loads(line)


def test_public_names_are_pinned_and_documented():
    names = {}
    exec("from mtslvr import *", names)
    assert set(PUBLIC) <= names.keys()
    assert mtslvr.__all__ == PUBLIC == [name for name in dir(mtslvr) if not name.startswith("_")]
    for name in PUBLIC:
        value = getattr(mtslvr, name)
        assert value.__name__ == name and value.__module__.startswith("mtslvr.")
        assert value.__doc__ and len(value.__doc__.strip()) > 20, name
        if inspect.isfunction(value) and inspect.signature(value).parameters:
            assert "Args:" in value.__doc__ and "Raises:" in value.__doc__, name
    assert mtslvr.__version__ == metadata.version("mtslvr")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", mtslvr.__version__)
    with pytest.raises(AttributeError, match="module 'mtslvr' has no attribute 'embbed'"):
        mtslvr.embbed  # noqa: B018  # looking it up is the test


def test_modules_for_users_are_attributes_of_the_package():
    """The former home of `read_table`, which says what takes its place, among them."""
    code = "import json, warnings; warnings.simplefilter('ignore', DeprecationWarning); import mtslvr; "
    assert fresh(code + "print(json.dumps(mtslvr.writer.read_npz.__name__))") == "read_table"
    sys.modules.pop("mtslvr.writer", None)
    with pytest.warns(DeprecationWarning, match=r"mtslvr\.writer is deprecated .*; use mtslvr\.read_table"):
        importlib.import_module("mtslvr.writer")
    assert mtslvr.hear.load_model and mtslvr.fewshot
    pytest.importorskip("sklearn")
    assert mtslvr.sklearn.MTSLVRTransformer


USER = """
import numpy as np
import torch
import mtslvr

row: np.ndarray = mtslvr.embed("dog.wav")
tensor: torch.Tensor = mtslvr.embed(torch.zeros(8), 16000, features="variant")
for result in mtslvr.embed_files(["dog.wav"]):
    error: mtslvr.AudioError | None = result.error
mtslvr.embed("dog.wav").numpy()  # type: ignore[attr-defined]
mtslvr.embed_windows("dog.wav")[0].numpy()  # type: ignore[attr-defined]
mtslvr.embed("dog.wav", feature="variant")  # type: ignore[call-overload]
mtslvr.read_table("out.npz").embeddings.numpy()  # type: ignore[attr-defined]
"""


@pytest.mark.slow
def test_mypy_sees_the_types_in_a_users_file_and_only_its_mistakes(tmp_path):
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(USER)
    options = ["--warn-unused-ignores", "--cache-dir", str(tmp_path / "cache"), "--config-file", ""]
    said, *_, status = api.run([str(tmp_path / "user.py"), *options])
    assert status == 0, said


@pytest.mark.extra("datasets")
def test_functions_that_embed_can_be_hashed_where_the_package_is_not_in_site_packages():
    """Hugging Face `datasets` keeps the results of `map` under a hash of what dill makes of the function."""
    code = "import dill, json, mtslvr, numpy; f = lambda batch: mtslvr.embed(batch); f((numpy.ones(16000), 16000)); "
    assert fresh(code + "print(json.dumps(len(dill.dumps(f, recurse=True))))") > 0


def test_an_import_asks_nobody_changes_nothing_of_torch_and_leaves_training_out():
    found = fresh(
        """
import json, sys
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if event.startswith("socket.") else None)
import torch
before = torch.get_num_threads(), torch.random.get_rng_state().tolist()
import mtslvr
for name in mtslvr.__all__:
    getattr(mtslvr, name)
same = before == (torch.get_num_threads(), torch.random.get_rng_state().tolist())
print(json.dumps([events, same, torch.cuda.is_initialized(), sorted(sys.modules)]))
"""
    )
    assert found[:3] == [[], True, False] and "mtslvr.models.hub" in found[3]
    assert {"mtslvr.training", "mtslvr.fewshot", "mtslvr.cli", "torchaudio", "sklearn"}.isdisjoint(found[3])


def test_a_module_imports_only_its_level_and_below_and_what_is_declared():
    """And the core does without the libraries of others."""
    modules = {"scikit-learn": "sklearn", "umap-learn": "umap"}
    names = {re.split(r"[^\w-]", line)[0] for line in metadata.requires("mtslvr") or []}
    declared = {modules.get(name, name.replace("-", "_")) for name in names}
    # Whoever asks for such a frame has the library; typing_extensions is there for types alone.
    allowed = declared | set(sys.stdlib_module_names) | {"pandas", "polars", "typing_extensions"}
    for path in FILES:
        ours, others = imports(path)
        if path.name != "__main__.py":  # a program, as those of cli
            assert {name for name in ours if LEVELS[name] > LEVELS[part(path)]} == set(), path
        if part(path) in CORE:
            assert {(part(path), other) for other in others & set(KEPT_OUT)} <= USED_WHEN_CALLED, path
        if part(path) in (*CORE, "cli"):
            assert others <= allowed, path
