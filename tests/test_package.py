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
FRAMES = {"pandas", "polars"}  # whoever asks for such a frame has the library
CORE = ROOMS[: ROOMS.index("sklearn")]


def files():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path):
    """The module, or the subpackage, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path, ignore_typing=False, ignore_functions=False):
    """(our parts, other top-level packages) imported anywhere in a file, inside functions too unless ignored."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    depth = len(path.relative_to(PACKAGE).parts) - 1
    skipped = set()
    for node in ast.walk(tree):
        typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if (ignore_typing and typing) or (ignore_functions and function):
            skipped.update(map(id, ast.walk(node)))
    ours, others = set(), set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level and node.level <= depth:  # stays in the subpackage
                names = [f"mtslvr.{part(path)}"]
            elif node.level or node.module == "mtslvr":
                module = node.module if node.level else None
                names = [f"mtslvr.{module}"] if module else [f"mtslvr.{alias.name}" for alias in node.names]
            else:
                names = [node.module]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "mtslvr":
                ours.add(rest.split(".")[0] or "__init__")
            else:
                others.add(top)
    return ours, others


def fresh(code):
    """The JSON that `code` prints in a new interpreter, which says nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:mtslvr", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    return json.loads(line)


# The public names


def test_all_is_pinned():
    assert mtslvr.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(mtslvr, name)
    assert value.__name__ == name
    assert value.__module__.startswith("mtslvr.")
    assert value.__doc__ and len(value.__doc__.strip()) > 20
    if inspect.isfunction(value) and inspect.signature(value).parameters:
        assert "Args:" in value.__doc__ and "Raises:" in value.__doc__


def test_star_import_and_dir():
    names = {}
    exec("from mtslvr import *", names)
    assert set(PUBLIC) <= names.keys()
    assert [name for name in dir(mtslvr) if not name.startswith("_")] == PUBLIC


def test_modules_for_users_are_attributes_of_the_package():
    code = """
import json, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import mtslvr
print(json.dumps(mtslvr.writer.read_npz.__name__))
"""
    assert fresh(code) == "read_table"
    assert mtslvr.hear.load_model and mtslvr.fewshot
    pytest.importorskip("sklearn")
    assert mtslvr.sklearn.MTSLVRTransformer


def test_the_former_home_of_read_table_says_what_takes_its_place():
    sys.modules.pop("mtslvr.writer", None)
    with pytest.warns(DeprecationWarning, match=r"mtslvr\.writer is deprecated .*; use mtslvr\.read_table"):
        importlib.import_module("mtslvr.writer")


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


def test_version_and_unknown_attribute():
    assert mtslvr.__version__ == metadata.version("mtslvr")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", mtslvr.__version__)
    with pytest.raises(AttributeError, match="module 'mtslvr' has no attribute 'embbed'"):
        mtslvr.embbed  # noqa: B018  # looking it up is the test


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()


# What an import does


def test_import_has_no_side_effects():
    found = fresh(
        """
import json, sys
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if event.startswith("socket.") else None)
import torch
threads = torch.get_num_threads(), torch.get_num_interop_threads()
state = torch.random.get_rng_state()
grad = torch.is_grad_enabled()
import mtslvr
for name in mtslvr.__all__:
    getattr(mtslvr, name)
print(json.dumps({
    "sockets": events,
    "threads": threads == (torch.get_num_threads(), torch.get_num_interop_threads()),
    "generator": bool(torch.equal(state, torch.random.get_rng_state())),
    "grad": grad == torch.is_grad_enabled(),
    "cuda": torch.cuda.is_initialized(),
    "modules": sorted(sys.modules),
}))
"""
    )
    assert found["sockets"] == []
    assert found["threads"] and found["generator"] and found["grad"] and not found["cuda"]
    assert "mtslvr.api" in found["modules"] and "mtslvr.models.hub" in found["modules"]
    tops = {name.split(".")[0] for name in found["modules"]}
    ours = {".".join(name.split(".")[:2]) for name in found["modules"] if name.startswith("mtslvr.")}
    assert ours.isdisjoint({"mtslvr.training", "mtslvr.fewshot", "mtslvr.cli"})
    assert tops.isdisjoint({"torchaudio", "sklearn"})


def test_bare_import_and_help_are_light():
    found = fresh(
        """
import json, sys
import mtslvr
import mtslvr.cli.main
print(json.dumps(sorted(sys.modules)))
"""
    )
    assert "mtslvr.cli.main" in found
    assert {name.split(".")[0] for name in found}.isdisjoint({"torch", "numpy", "soundfile", "huggingface_hub"})


# The house's levels


def test_every_module_has_a_level():
    assert {part(path) for path in files()} == set(LEVELS) - {"__init__"}


def test_a_module_imports_only_its_level_and_below():
    for path in files():
        if path.name != "__main__.py":  # a program, as those of cli
            level = LEVELS[part(path)]
            assert {name for name in imports(path)[0] if LEVELS[name] > level} == set(), path


def test_the_core_does_without_the_libraries_of_others():
    for path in files():
        if part(path) in CORE:
            ours, others = imports(path)
            assert "__init__" not in ours, path
            assert {(part(path), other) for other in others & set(KEPT_OUT)} <= USED_WHEN_CALLED, path
            assert imports(path, ignore_typing=True, ignore_functions=True)[1].isdisjoint(KEPT_OUT), path


def test_fewshot_and_training_do_not_know_each_other_or_the_command_line_modules():
    for path in files():
        ours, _ = imports(path, ignore_typing=True)
        if part(path) == "training":
            assert "fewshot" not in ours, path
        if part(path) == "fewshot":
            assert "training" not in ours, path


def declared(extra):
    """Modules of the dependencies: of everyone's, or of the extras."""
    modules = {"scikit-learn": "sklearn", "umap-learn": "umap"}
    lines = [line for line in metadata.requires("mtslvr") or [] if ("extra ==" in line) is extra]
    names = {re.split(r"[^\w-]", line)[0] for line in lines}
    return {modules.get(name, name).replace("-", "_") for name in names}


def test_what_the_core_and_the_commands_import_is_declared():
    always = declared(extra=False) | set(sys.stdlib_module_names) | {"__future__"}
    for path in files():
        if part(path) in CORE or part(path) == "cli":
            # What only types need is not imported when the code runs.
            assert imports(path, ignore_typing=True, ignore_functions=True)[1] <= always, path
            # What an extra brings is imported by those who use it.
            assert imports(path, ignore_typing=True)[1] <= always | declared(extra=True) | FRAMES, path
