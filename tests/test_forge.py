"""What a public forge, a container and a citation need: nothing of it runs here, so it is checked
against its schemas, and the shell in it is run."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml"))
SCHEMAS = [
    *(("github-workflows", path) for path in WORKFLOWS),
    *(("github-issue-forms", path) for path in FORMS),
    ("github-issue-config", ROOT / ".github/ISSUE_TEMPLATE/config.yml"),
    ("citation-file-format", ROOT / "CITATION.cff"),
]
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps():
    """Every step of every workflow: its file, its job and itself."""
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield from ((path, name, step) for step in job.get("steps", ()))


def shell(name: str, job: str, word: str) -> str:
    """The step of a job whose shell holds a word."""
    (found,) = (
        step["run"]
        for path, of, step in steps()
        if path.stem == name and of == job and word in step.get("run", "")
    )
    return found


@pytest.mark.thorough
@pytest.mark.parametrize(("schema", "path"), SCHEMAS, ids=lambda x: getattr(x, "name", x))
def test_the_schema_holds(schema, path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_the_templates_and_workflows_that_were_asked_for():
    assert {path.stem for path in WORKFLOWS} == {"test", "book", "release"}
    assert {path.stem for path in FORMS} == {"new_format", "new_lesson", "wrong_number"}


def test_every_shell_of_a_workflow_can_be_read():
    for path, job, step in steps():
        text = re.sub(r"\$\{\{.*?\}\}", "x", step.get("run", ""))
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{path.name}, {job}: {done.stderr}"


def test_a_job_says_how_long_it_may_take_or_is_short():
    jobs = {(p.stem, n): job for p in WORKFLOWS for n, job in read(p)["jobs"].items()}
    short = {("book", "publish"), *(("release", n) for n in ("check", "publish", "announce"))}
    assert {k for k, job in jobs.items() if "timeout-minutes" not in job and "uses" not in job} == (
        short
    )


def test_each_python_that_we_name_is_tested_on_three_systems():
    jobs = read(ROOT / ".github/workflows/test.yml")["jobs"]
    matrix, whole = jobs["parts"]["strategy"]["matrix"], jobs["whole"]
    labels = PROJECT["project"]["classifiers"]
    named = [label.split()[-1] for label in labels if re.search(r":: 3\.\d+$", label)]
    assert matrix["python"] == named and len(matrix["os"]) == 3
    (setup,) = (s["with"] for s in whole["steps"] if "setup-python" in s.get("uses", ""))
    assert matrix["exclude"] == [{"os": whole["runs-on"], "python": setup["python-version"]}]
    assert "exclude" not in jobs["install"]["strategy"]["matrix"]


def test_extras_and_markers_that_workflows_name_are_there():
    text = "\n".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    text += (ROOT / "deploy/Containerfile").read_text(encoding="utf-8")
    extras = {e for group in re.findall(r"\[((?:\w+,?)+)\]['\"]", text) for e in group.split(",")}
    assert extras and extras <= PROJECT["project"]["optional-dependencies"].keys()
    markers = {m.partition(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    left_out = set(re.findall(r"not (\w+)(?= and|')", text))
    assert left_out and left_out <= markers


# -- one version


def test_the_version_is_one():
    version = PROJECT["project"]["version"]
    assert str(read(ROOT / "CITATION.cff")["version"]) == version
    assert re.findall(r"^## \[(.*?)\]", CHANGES, re.M)[0] == version


def test_changes_keep_the_form():
    sections = re.findall(r"^## (.*)$", CHANGES, re.M)
    assert all(
        re.fullmatch(r"\[\d+\.\d+\.\d+\] - (Unreleased|\d{4}-\d\d-\d\d)", s) for s in sections
    )
    kinds = set(re.findall(r"^### (.*)$", CHANGES, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# -- a release


@pytest.fixture
def release(tmp_path):
    """A function that runs the check of a release on a project that is ready, but for a change."""
    text = shell("release", "check", "CHANGELOG")

    def check(tag="v0.2.0", file=None, old="", new=""):
        for name in ("pyproject.toml", "CITATION.cff", "SECURITY.md", "CHANGELOG.md"):
            whole = (ROOT / name).read_text(encoding="utf-8").replace("example.org", "forge.net")
            whole = whole.replace("] - Unreleased", "] - 2026-12-01")
            assert name != file or old in whole
            (tmp_path / name).write_text(whole.replace(old, new) if name == file else whole)
        (tmp_path / ".github" / "ISSUE_TEMPLATE").mkdir(parents=True, exist_ok=True)
        env = os.environ | {"TAG": tag, "GITHUB_OUTPUT": str(tmp_path / "out")}
        command = ["bash", "-e", "-c", text]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    return check


def test_what_is_ready_is_released(release, tmp_path):
    done = release()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out").read_text() == "version=0.2.0\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(tag="v0.3.0"), "pyproject.toml has another version than 0.3.0"),
        (dict(file="CITATION.cff", old="version: 0.2.0", new="version: 0.1.0"), "CITATION.cff has"),
        (dict(file="CHANGELOG.md", old="2026-12-01", new="Unreleased"), "no dated section of 0.2"),
        (dict(file="SECURITY.md", old="forge.net", new="example.org"), "example.org stands for"),
    ],
)
def test_what_is_not_ready_is_not(release, change, said):
    done = release(**change)
    assert done.returncode == 1 and said in done.stdout


def test_notes_are_the_section_of_the_version(tmp_path):
    text = shell("release", "announce", "awk").splitlines()[0]
    (tmp_path / "CHANGELOG.md").write_text("# C\n## [0.2.0] - x\n\n- b\n\n## [0.1.0] - y\n- a\n")
    env = os.environ | {"VERSION": "0.2.0"}
    subprocess.run(["bash", "-e", "-c", text], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "notes.md").read_text() == "\n- b\n\n"


# -- containers


def test_the_development_container_is_json_with_a_target_of_make():
    made = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert ".venv/installed" in made["postCreateCommand"] and made["forwardPorts"] == [8888]
    assert "INSTALLED := .venv/installed" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_image_copies_what_is_there():
    text = (ROOT / "deploy/Containerfile").read_text(encoding="utf-8")
    sources = re.findall(r"^COPY (?:--\S+ )*(\S+) \S+$", text, re.M)
    assert sources and all((ROOT / source).exists() for source in sources)


@pytest.mark.thorough
def test_a_user_of_the_image_gets_the_lessons(tmp_path):
    (tmp_path / "tensorlab").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tensorlab "$@"\n')
    (tmp_path / "tensorlab").chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    script = ROOT / "deploy/20-lessons.sh"
    subprocess.run([shutil.which("bash"), "-c", f'source "{script}"'], env=env, check=True)
    assert (tmp_path / "lessons" / "00_start.ipynb").exists()


def test_nbgrader_is_told_its_course(monkeypatch):
    class Section(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__
        __missing__ = lambda self, name: self.setdefault(name, Section())

    config = Section()
    monkeypatch.setenv("NBGRADER_COURSE", "mine")
    monkeypatch.setattr("builtins.get_config", lambda: config, raising=False)
    runpy.run_path(str(ROOT / "deploy/nbgrader_config.py"))
    assert config.CourseDirectory.course_id == "mine"
    assert f"VOLUME {config['Exchange']['root']}" in (ROOT / "deploy/Containerfile").read_text()
