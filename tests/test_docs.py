"""Every command and every piece of Python in docs/ runs, in one folder, as a reader would run them in a shell; every
example finds what it says it finds, and the audio beside them is what its script makes.

`mtslvr` and `mtslvr-embed` in that shell are relays to this process, which has torch and the weights. Of the
recordings there are only the first seconds.
"""

import ast
import functools
import importlib.util
import io
import json
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import threading
from contextlib import redirect_stdout, suppress
from multiprocessing.connection import Listener
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.embed import embed_command
from mtslvr.cli.main import main
from mtslvr.models import hub

ROOT = Path(__file__).parent.parent
DOCS, AUDIO = ROOT / "docs", ROOT / "examples" / "audio"
ACCURACY, DATASETS = r"^(\w+) .*?(\d+\.\d\d) ± \d+\.\d\d %$", r"^\(15, 1000\) float32 \['alarm', 'bells', 'birds'"
MAKE_AUDIO = runpy.run_path(str(ROOT / "examples" / "make_audio.py"))
# In the order in which they are run; what one writes, others may read.
PAGES = ["cli", "README", "embed", "outputs", "python", "features", "recipes", "labels", "scale", "troubleshooting"]
PAGES = [ROOT / "README.md", *(DOCS / f"{name}.md" for name in [*PAGES, "speed", "models", "onnx"])]
RECIPES = ("duckdb", "faiss", "fsspec", "pandas", "polars", "webdataset")
SECONDS = 2
# The first of eight tasks of an array.
SLURM = {"ARRAY_TASK_ID": "1", "ARRAY_TASK_MIN": "1", "ARRAY_TASK_COUNT": "8", "CPUS_PER_TASK": "2"}
SLURM = {f"SLURM_{name}": value for name, value in SLURM.items()}

RELAY = """\
#!{python} -IS
import os, sys
from multiprocessing.connection import Client
here = Client({address!r})
here.send((sys.argv, sys.stdin.buffer.read() if "-" in sys.argv else b"", dict(os.environ)))
code, out, err = here.recv()
sys.stderr.write(err)
sys.stdout.write(out)
sys.exit(code)
"""


def blocks(page):
    """(kind, code) of each."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_on_few_shot_evaluation_names_options_that_exist():
    codes = {"sh": "", "python": ""}
    for kind, code in blocks(DOCS / "fewshot.md"):
        codes[kind] += code
    commands = [line.split("#")[0].split() for line in codes["sh"].replace("\\\n", " ").splitlines() if line.strip()]
    assert len(commands) >= 10 and {program for program, *_ in commands} == {"mtslvr"}
    for _, name, *arguments in commands:  # what they measure takes minutes
        main.get_command(None, name).make_context(name, arguments)
    exec(codes["python"], {})


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs bash code in a folder with recordings."""
    if os.name != "posix" or shutil.which("bash") is None:
        pytest.skip("the commands are for bash")
    work, bin_folder = tmp_path / "work", tmp_path / "bin"
    shutil.copytree(AUDIO, work / "examples" / "audio")
    for label, folder in (("birds", "birds"), ("rain", "rain"), ("background", "machine")):
        shutil.copytree(AUDIO / folder, work / "calls" / label)
    for path in shutil.copytree(AUDIO, work / "recordings").rglob("*.*"):
        with soundfile.SoundFile(path) as file:
            how = {"format": file.format, "subtype": file.subtype}
            samples, rate = file.read(SECONDS * file.samplerate), file.samplerate
        soundfile.write(path, samples, rate, **how)
    (work / "nights").mkdir()
    shutil.copy(AUDIO / "bells" / "church.ogg", work / "nights" / "one.ogg")
    for name, seconds in (("dog.wav", 1), ("cat.wav", 2), ("night.flac", 12)):
        soundfile.write(work / name, np.random.default_rng(0).normal(0, 0.1, seconds * 16000), 16000)
    (work / "broken.wav").write_bytes(b"RIFF of nothing")
    monkeypatch.chdir(work)
    monkeypatch.setattr(hub, "load", functools.cache(hub.load))
    listener = Listener(family="AF_UNIX")
    bin_folder.mkdir()
    for name in ("mtslvr", "mtslvr-embed"):
        (bin_folder / name).write_text(RELAY.format(python=sys.executable, address=listener.address))
        (bin_folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}

    def run(code, **variables):
        # No exit status is lost: a failing command ends the block.
        command = ["bash", "-e", "-u", "-o", "pipefail", "-c", code]
        done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    with listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield run


def serve(listener):
    with suppress(OSError):  # of a listener that is closed
        while True:
            with listener.accept() as connection:
                (program, *arguments), given, environment = connection.recv()
                name = Path(program).name
                command = embed_command if name == "mtslvr-embed" else main
                result = CliRunner().invoke(command, arguments, prog_name=name, input=given, env=environment)
                trouble = "" if isinstance(result.exception, SystemExit | None) else repr(result.exception)
                connection.send((result.exit_code, result.stdout, result.stderr + trouble))


@pytest.mark.slow
@pytest.mark.extra("plot", "onnx")
def test_every_command_and_every_piece_of_python_runs(shell, tmp_path):
    for module in RECIPES:
        pytest.importorskip(module, reason="the libraries of docs/recipes.md: pip install 'mtslvr[recipes]'")
    count, work = 0, tmp_path / "work"
    for page in PAGES:
        names = {"waveform": np.zeros(44100, np.float32)}
        for kind, code in blocks(page):
            if "import openvino" in code and importlib.util.find_spec("openvino") is None:  # no extra brings it
                continue
            assert kind in ("sh", "bash", "python"), f"{page}: a block of {kind!r} that nothing runs"
            if code.startswith("pip install"):  # .ci/run does
                continue
            count += 1
            if kind != "python":
                shell(code, **(SLURM if "SLURM" in code else {}))
                continue
            with redirect_stdout(io.StringIO()) as printed:
                exec(compile(code, page, "exec"), names)
            assert "classifier.predict" not in code or printed.getvalue() == "['bird' 'rain']\n"
    assert count >= 20
    size = (work / "mtslvr.onnx").stat().st_size
    assert f"has {size / 1e6:.0f} MB" in (DOCS / "onnx.md").read_text(encoding="utf-8")
    assert len(np.load(work / "embeddings.npz")["paths"]) == 15 and len(np.load(work / "all.npy")) == 6
    assert (work / "birds.csv").read_text().count("\n") == 4 and (work / "first.jsonl").read_text().count("\n") == 1
    assert "complete" in (work / "mtslvr-embed-completion.bash").read_text()
    assert json.loads((work / "some.npz.errors.jsonl").read_text())["file"].endswith("broken.wav")
    assert len(np.load(work / "array-00001-of-00008.npz")["paths"]) == 2
    whole = np.load(work / "embeddings.npz")["embeddings"]
    for name in ("out.npz", "gpus.npz", "shared.npy", "two.npy"):
        merged = np.load(work / name)
        np.testing.assert_array_equal(merged if name.endswith(".npy") else merged["embeddings"], whole)


def test_troubleshooting_names_messages_that_exist():
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "mtslvr").rglob("*.py"))
    texts = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    said = "\n".join(text for text in texts if isinstance(text, str))
    headings = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) > 20
    for piece in "…".join(headings).split("…"):
        assert piece.strip(" ;,.()") in said, f"nothing says {piece!r}"


def test_the_reference_names_what_is_public():
    objects = re.findall(r"^::: (mtslvr\.\S+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    described = list(map(pkgutil.resolve_name, objects))
    for thing in (getattr(mtslvr, name) for name in mtslvr.__all__):
        assert thing in described or sys.modules[thing.__module__] in described, f"docs/api.md lacks {thing}"


def test_versions_sizes_and_links_are_right():
    places = {"pyproject.toml": 'version = "(.+)"', "CITATION.cff": "version: (.+)", "CHANGELOG.md": r"## \[(.+)\]"}
    found = {re.search(f"^{line}", (ROOT / name).read_text("utf-8"), re.MULTILINE)[1] for name, line in places.items()}
    assert len(found) == 1, found
    size = (ROOT / "weights" / "parallel-simclr-v2" / "model.safetensors").stat().st_size
    assert f"{size / 1e6:.0f} MB of weights" in (ROOT / "README.md").read_text(encoding="utf-8")
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page}: {target}"


def test_speeds_are_those_of_the_benchmarks():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    folders = [re.findall(rf"^\| {e} \| \w+ \| (\d+) ", results, re.M) for e in ("torch float32", "torch bfloat16")]
    told = re.findall(r"(\d+) (?:\(\w+\) )?to (\d+) times", (DOCS / "speed.md").read_text(encoding="utf-8"))
    assert told == [(min(speeds, key=int), max(speeds, key=int)) for speeds in folders]
    row = r"^### 1 thread$.*?^\| batch 32 .*?^\| torch float32 \|(?:[^|]*\|){2} ([\d.]+) "
    batch = re.search(row, results, re.M | re.S)
    assert f"{batch[1]} times as fast" in mtslvr.load.__doc__


@pytest.mark.skipif(sys.platform != "linux", reason="the workflow runs on Linux, with its sed")
def test_the_release_makes_every_link_of_the_readme_absolute(tmp_path):
    [command] = re.findall("^ *sed .*README.md$", (ROOT / ".github/workflows/release.yml").read_text(), re.MULTILINE)
    shutil.copy(ROOT / "README.md", tmp_path)
    address = "https://example.org/one/two/blob/v1"
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env={**os.environ, "REPOSITORY": address})
    links = re.findall(r"\]\(([^)]+)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    assert f"{address}/docs/map.png?raw=true" in links and f"{address}/docs/README.md" in links
    assert all(link.startswith("https://") for link in links)


def found_by(script, pattern):
    command = [sys.executable, ROOT / "examples" / script]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    found = re.findall(pattern, result.stdout.decode("utf-8"), re.MULTILINE)
    assert result.returncode == 0 and found, (result.stdout, result.stderr)
    return found


@pytest.mark.slow
def test_one_file_and_a_folder():
    found = found_by("01_one_file.py", r"two birds (-?\d\.\d\d)   bird and machine (-?\d\.\d\d)")
    assert len(found) == 3 and float(found[0][0]) > float(found[0][1])  # invariant: two birds are more alike
    pairs = found_by("02_folder.py", r"^(\S+) +nearest (\S+)")
    assert [path for path, _ in pairs] == sorted(MAKE_AUDIO["TAKES"])
    assert all(path != nearest for path, nearest in pairs)
    # Chance is 2 of 14.
    assert sum(path.split("/")[0] == nearest.split("/")[0] for path, nearest in pairs) > len(pairs) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "pattern", "names", "least"),
    [
        ("03_few_shot.py", ACCURACY, ["invariant", "variant", "concat"], 25),  # chance
        ("04_other_features.py", ACCURACY, ["mtslvr", "MFCC"], 40),
        ("05_label_recordings.py", ".", [], 0),
        pytest.param("hugging_face_datasets.py", DATASETS, [], 0, marks=pytest.mark.extra("datasets")),
        pytest.param("ray_embed.py", "^15 files, 1000 numbers each, 0 broken$", [], 0, marks=pytest.mark.extra("ray")),
    ],
)
def test_others_run(script, pattern, names, least):
    found = found_by(script, pattern)
    if names:
        assert [name for name, _ in found][: len(names)] == names
        assert all(float(mean) > least for _, mean in found)


def test_audio_is_what_the_script_makes(tmp_path):
    MAKE_AUDIO["make"](tmp_path)
    files = {path.relative_to(AUDIO).as_posix() for path in AUDIO.rglob("*") if path.is_file()}
    assert files == set(MAKE_AUDIO["TAKES"])
    assert sum(path.stat().st_size for path in AUDIO.rglob("*.*")) < 1_000_000
    for name in files:
        (made, rate), (stored, stored_rate) = soundfile.read(tmp_path / name), soundfile.read(AUDIO / name)
        assert (made.shape, rate) == (stored.shape, stored_rate)
        # Encoders differ a little between versions; another draw of noise would be 1.4 away.
        assert np.sqrt(np.mean((made - stored) ** 2) / np.mean(stored**2)) < 0.5
