import ast
import importlib
import inspect
import json
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import mtslvr

PACKAGE = Path(mtslvr.__file__).parent

# From the lowest to the highest: a room imports only lower ones, see docs/architecture.md.
ROOMS = (
    "errors", "workers", "config", "audio", "nn", "models", "run", "writer", "api", "onnx", "hear", "sklearn", "ray",
    "search", "classify", "fewshot", "training", "analysis", "cli",
)  # fmt: skip
PUBLIC = [
    "AdapterKind", "AudioError", "CheckpointError", "Classifier", "ConfigError", "Embeddings", "Encoder",
    "EncoderConfig", "Features", "FrontendConfig", "HubError", "Layer", "MTSLVRError", "Normalization", "Phase",
    "TrainingError", "embed", "embed_files", "embed_windows", "list_models", "load", "read_table",
]  # fmt: skip
KEPT_OUT = ("torchaudio", "sklearn", "scipy", "pandas", "matplotlib", "click", "tqdm")
# The bar of `embed_files` and frames of a table, where they are asked for.
USED_WHEN_CALLED = {("api", "tqdm"), ("run", "pandas")}
CORE = ROOMS[: ROOMS.index("sklearn")]


def fresh(code):
    """The JSON that `code` prints in a new interpreter, which says nothing else."""
    # Torch 2.4 warns of itself.
    options = ["-W", "error::DeprecationWarning:mtslvr", "-W", "ignore::FutureWarning:torch._export.utils"]
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    return json.loads(done.stdout)


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
    with pytest.raises(AttributeError, match="module 'mtslvr' has no attribute 'embbed'"):
        mtslvr.embbed  # noqa: B018  # looking it up is the test


def test_modules_for_users_are_attributes_of_the_package_and_the_former_home_of_read_table_says_what_replaces_it():
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
    found = fresh("""
import json, sys
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if event.startswith("socket.") else None)
import torch
before = torch.get_num_threads(), torch.random.get_rng_state().tolist()
from mtslvr import *
same = before == (torch.get_num_threads(), torch.random.get_rng_state().tolist())
print(json.dumps([events, same, torch.cuda.is_initialized(), sorted(sys.modules)]))
""")  # fmt: skip
    assert found[:3] == [[], True, False] and "mtslvr.models.hub" in found[3]
    assert {"mtslvr.training", "mtslvr.fewshot", "mtslvr.cli", "torchaudio", "sklearn"}.isdisjoint(found[3])


def test_a_room_imports_only_lower_ones_and_the_drawing_of_them_is_current():
    rooms = SimpleNamespace(**runpy.run_path(str(PACKAGE.parent / "docs" / "rooms.py")))
    assert rooms.PAGE.read_text(encoding="utf-8") == rooms.page(), "run: python docs/rooms.py"
    base = {name: re.findall(r"^ *from \.(\w+)", (PACKAGE / f"{name}.py").read_text(), re.M) for name in rooms.BASE}
    for name, below in {**rooms.imports(), **base}.items():
        assert {other for other in below if ROOMS.index(other) > ROOMS.index(name)} == set(), name


def test_libraries_are_declared_and_the_core_does_without_those_of_others():
    modules = {"scikit-learn": "sklearn", "umap-learn": "umap"}
    names = {re.split(r"[^\w-]", line)[0] for line in metadata.requires("mtslvr") or []}
    declared = {modules.get(name, name.replace("-", "_")) for name in names}
    # Whoever asks for such a frame has the library; typing_extensions is there for types alone.
    allowed = declared | set(sys.stdlib_module_names) | {"pandas", "polars", "typing_extensions"}
    for path in PACKAGE.rglob("*.py"):
        room, imported = path.relative_to(PACKAGE).parts[0].removesuffix(".py"), set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
        if room in CORE:
            assert {(room, name) for name in imported & set(KEPT_OUT)} <= USED_WHEN_CALLED, path
        if room in (*CORE, "cli"):
            assert imported <= allowed, path
