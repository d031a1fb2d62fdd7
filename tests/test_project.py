"""The repository holds together: one list of dependencies, a README that names what there is, nothing large."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", [None, "dev", "pipeline", "kaggle"])
def test_every_dependency_is_pinned_within_its_bounds(extra: str | None) -> None:
    pins = {canonical(name): version.split(";")[0].strip() for name, version in PINS.items()}
    for text in PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[canonical(wanted.name)]), f"{text}, but {pins[canonical(wanted.name)]}"


@pytest.mark.parametrize("extras", ["dev,pipeline,kaggle"])
def test_extras_resolve_under_the_constraints(extras: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--constraint", "constraints.txt"]
    answer = subprocess.run([*command, "--editable", f".[{extras}]"], cwd=ROOT, capture_output=True, text=True)
    if answer.returncode and re.search(r"connection|resolve host|timed out|network", answer.stderr, re.IGNORECASE):
        pytest.skip("no package registry can be reached from here")
    assert answer.returncode == 0, answer.stderr


def test_environment_yml_cannot_drift_from_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    names = [entry if isinstance(entry, str) else "pip packages" for entry in environment["dependencies"]]
    assert [re.split("[=<>]", name)[0] for name in names] == ["python", "pip", "pip packages"]
    assert environment["dependencies"][-1]["pip"] == ["-e .[dev,pipeline,kaggle]"]


def test_git_does_not_ignore_the_library_but_ignores_runs() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert git("check-ignore", "lib/data/audio.py", "outputs/findings/x.png", "outputs/README.md") == ""
    ignored = ["outputs/demo/x.csv", "notebooks/scratch/x.ipynb", "x.wav", "x.safetensors", ".venv/x"]
    assert git("check-ignore", *ignored).split() == ignored


def test_tracked_files_are_small_and_hold_no_audio_or_weights() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = [ROOT / name for name in git("ls-files").splitlines()]
    assert tracked
    large = [path.name for path in tracked if path.is_file() and path.stat().st_size > 500_000]
    media = [path.name for path in tracked if path.suffix in {".wav", ".ogg", ".flac", ".mp3", ".safetensors", ".npz"}]
    assert not large and not media


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]


def test_readme_is_short_and_begins_with_a_result_and_a_command() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and (ROOT / "README.md").stat().st_size <= 10_240
    assert any(re.search(r"\.\d{3} \[", line) for line in lines[:20]), "a result before line 20"
    assert any(line.startswith("make ") for line in lines[:50]), "a command before line 50"


def test_readme_names_every_notebook_room_and_page_and_docs_every_profile() -> None:
    readme, data = (ROOT / "README.md").read_text(), (ROOT / "docs" / "data.md").read_text()
    notebooks = [path.name for path in (ROOT / "notebooks").glob("*.ipynb")]
    rooms = [f"  {path.parent.name}/ " for path in (ROOT / "lib").glob("*/__init__.py")]
    pages = [path.relative_to(ROOT).as_posix() for path in PAGES[1:]]
    assert [name for name in [*notebooks, *rooms, *pages] if name not in readme] == []
    assert [path.stem for path in (ROOT / "params").glob("*.yaml") if f"`{path.stem}`" not in data] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in target]
    wrong = []
    for target in targets:
        name, _, heading = target.partition("#")
        place = page.parent / name if name else page
        headings = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE) if heading and place.is_file() else []
        slugs = [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]
        wrong += [target] if not place.exists() or (heading and heading not in slugs) else []
    assert wrong == []


def test_make_prints_a_line_for_every_public_target() -> None:
    answer = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    public = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "demo", "test", "lab", "bench"} <= set(public)
    assert [line.split()[0] for line in answer.stdout.splitlines()] == public


def test_check_file_size_refuses_a_large_file(tmp_path: Path) -> None:
    large, small = tmp_path / "large.bin", tmp_path / "small.bin"
    large.write_bytes(bytes(600_000))
    small.write_bytes(b"x")
    command = [sys.executable, str(ROOT / "tests" / "check_file_size.py")]
    assert subprocess.run([*command, str(small)]).returncode == 0
    refused = subprocess.run([*command, str(small), str(large)], capture_output=True, text=True)
    assert refused.returncode == 1 and "large.bin is over 500 kB" in refused.stdout
