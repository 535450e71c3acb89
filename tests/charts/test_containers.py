"""The container files: pinned, not root, small where they can be; and what the chart assumes of them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

import dockerfile
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from edgedraft import cli
from edgedraft.local.demo_model import CACHE_VARIABLE
from tests.charts.rendering import ROOT, Container, container, containers, rendered
from verifier.engine.on_vllm.start import PACKAGES, VERSION

FOLDER = ROOT / "containers"
IMAGES = ("gateway", "verifier", "verifier-vllm", "agent")
PINNED = re.compile(r"[a-z0-9./-]+:\d+\.\d+\.\d+[a-z0-9.-]*@sha256:[0-9a-f]{64}")


def commands(image: str) -> list[dockerfile.Command]:
    return list(dockerfile.parse_file(str(FOLDER / f"{image}.Dockerfile")))


def last_stage(image: str) -> list[dockerfile.Command]:
    """Of the stage that becomes the image."""
    all_of_them = commands(image)
    last = max(index for index, command in enumerate(all_of_them) if command.cmd.lower() == "from")
    return all_of_them[last:]


def values_of(image: str, instruction: str) -> list[tuple[str, ...]]:
    return [command.value for command in last_stage(image) if command.cmd.lower() == instruction]


def environment(image: str) -> dict[str, str]:
    pairs = [pair for value in values_of(image, "env") for pair in zip(value[::2], value[1::2], strict=True)]
    return {name: value.strip('"') for name, value in pairs}


def in_the_chart(image: str) -> Container:
    """A container that runs it."""
    if image != "verifier-vllm":
        return container(rendered("trial"), image)
    (found,) = [each for each in containers(rendered("vllm")) if each.workload.endswith("-still")]
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_the_linter_finds_nothing(image: str) -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, FOLDER / f"{image}.Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("image", IMAGES)
def test_every_base_is_pinned_and_the_build_stays_behind(image: str) -> None:
    arguments = dict(
        command.value[0].split("=", 1) for command in commands(image) if command.cmd.lower() == "arg" and command.value
    )
    stages: set[str] = set()
    bases = [command.value for command in commands(image) if command.cmd.lower() == "from"]
    for base, *name in bases:
        resolved = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)
        assert resolved in stages or PINNED.fullmatch(resolved), base
        stages.update(name[1:])
    assert len(bases) > 1
    assert not any("pip install" in " ".join(run) for run in values_of(image, "run"))
    if image != "gateway":
        first = "vllm" if image == "verifier-vllm" else "torch"
        assert {f"{first}-cpu", f"{first}-cuda", "runtime-cpu", "runtime-cuda"} <= stages
        assert arguments["VARIANT"] == "cpu"
        # In an image for CPUs it would hand a node's GPUs to pods that asked for none.
        assert not any(name.startswith("NVIDIA") for name in environment(image))


@pytest.mark.parametrize("image", IMAGES)
def test_every_address_can_be_replaced_by_an_argument(image: str) -> None:
    """For builds without the internet: the base image's own pip and apt settings apply to all else."""
    for command in commands(image):
        if command.cmd.lower() in {"run", "add", "copy"}:
            assert "://" not in " ".join(command.value), command.original


@pytest.mark.parametrize("image", IMAGES)
def test_it_does_not_run_as_root_and_as_the_user_that_the_chart_names(image: str) -> None:
    ((user,),) = values_of(image, "user")
    number, _, group = user.partition(":")
    assert int(number) > 0
    assert int(group) > 0
    if image != "agent":
        context = in_the_chart(image).pod["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(number), int(group))


@pytest.mark.parametrize("image", IMAGES)
def test_the_command_exists_and_the_variables_are_its_settings(image: str) -> None:
    (entrypoint,), (words,) = values_of(image, "entrypoint"), values_of(image, "cmd")
    assert entrypoint[-1] == "edgedraft"
    kind, _ = cli.COMMANDS[words]
    ours = {name: value for name, value in environment(image).items() if name.startswith("EDGEDRAFT_")}
    known = {name: value for name, value in ours.items() if name != CACHE_VARIABLE}
    assert {name.removeprefix("EDGEDRAFT_").lower() for name in known} <= set(kind.model_fields)
    kind.model_validate({name.removeprefix("EDGEDRAFT_").lower(): value for name, value in known.items()})


@pytest.mark.parametrize("image", ["gateway", "verifier", "verifier-vllm"])
def test_ports_and_folders_are_those_of_the_chart(image: str) -> None:
    found = in_the_chart(image)
    exposed = {int(port) for ports in values_of(image, "expose") for port in ports}
    assert exposed == {port["containerPort"] for port in found.container["ports"]}
    mounted = {mount["mountPath"] for mount in found.container["volumeMounts"]}
    assert {folder for folders in values_of(image, "volume") for folder in folders} <= mounted
    assert environment(image)["HOME"] in mounted, "what a library writes to its home has a place"
    for name in (CACHE_VARIABLE, "HF_HOME"):
        if name in environment(image):
            assert found.env[name]["value"] == environment(image)[name]
    for name in found.env:
        if name.endswith(("CACHE_ROOT", "CACHE_DIR")):
            assert found.env[name]["value"] == environment(image)[name]


def _installed(image: str) -> list[str]:
    """The requirements of the project that its build installs, extras and all."""
    runs = [" ".join(command.value) for command in commands(image) if command.cmd.lower() == "run"]
    words = [word for run in runs for word in shlex.split(run) if word.startswith(".[")]
    assert len(words) == 1
    return words[0].removeprefix(".[").removesuffix("]").split(",")


@pytest.mark.parametrize("image", IMAGES)
def test_every_extra_exists(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(_installed(image)) <= set(project["optional-dependencies"])


def _all_that_comes_with(image: str) -> set[str]:
    """Packages, by what this environment's own say that they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in _installed(image) for line in _extra(project, extra))]
    seen: set[tuple[str, frozenset[str]]] = set()
    return set().union(*(_with_its_own(Requirement(line), seen) for line in lines))


def _extra(project: dict[str, Any], name: str) -> list[str]:
    return project["optional-dependencies"][name]


def _with_its_own(wanted: Requirement, seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    name, extras = wanted.name.lower(), frozenset(wanted.extras)
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    try:
        needed = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:
        needed = []
    found = {name}
    for requirement in needed:
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            found |= _with_its_own(requirement, seen)
    return found


# Package of each image's program, and the parts of it that need extras of their own.
PROGRAMS = {
    "gateway": ("gateway", ("gateway.storage.migrations",)),  # Alembic imports those
    "verifier": ("verifier", ("verifier.engine.on_vllm",)),
    "agent": ("edge_agent", ("edge_agent.distill", "edge_agent.onnx")),
}
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path[:0] = sys.argv[1:3]
program, left_out = importlib.import_module(sys.argv[3]), tuple(sys.argv[4:])
for module in pkgutil.walk_packages(program.__path__, f"{program.__name__}."):
    if not module.name.startswith(left_out):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize("image", PROGRAMS)
def test_an_image_has_every_package_that_its_program_imports(image: str, tmp_path: Path) -> None:
    """With the packages of its extras and no other."""
    for name in _all_that_comes_with(image):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    program, left_out = PROGRAMS[image]
    # -S leaves out this environment's packages.
    command = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(tmp_path), str(ROOT), program, *left_out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_make_builds_the_images_that_the_chart_names() -> None:
    words = ["make", "--no-print-directory", "--dry-run", "images", "ENGINE=docker"]
    lines = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    built = {line.split("--file containers/")[1].split(".")[0]: line.split("--tag ")[1].split()[0] for line in lines}
    for image in ("gateway", "verifier"):
        assert built.pop(image) == in_the_chart(image).container["image"]
    assert set(built) == {"agent"}


def test_the_gateways_image_has_no_torch() -> None:
    found = _all_that_comes_with("gateway")
    assert {"fastapi", "asyncpg", "redis", "tokenizers", "opentelemetry-sdk"} <= found
    assert not {"torch", "transformers", "accelerate", "xllamacpp"} & found
    # transformers needs gguf to convert the demo model.
    assert all({"torch", "gguf"} <= _all_that_comes_with(image) for image in ("verifier", "agent"))


def test_the_gateways_image_runs_its_commands_without_the_other_programs(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "drafts"))
    (remove,) = [
        run.value[0] for run in commands("gateway") if run.cmd.upper() == "RUN" and run.value[0].startswith("find ")
    ]
    subprocess.run(["sh", "-c", remove], cwd=tmp_path, check=True)
    for package in ("edge_agent", "verifier", "loadtest"):
        assert {path.name for path in (tmp_path / package).rglob("*.py")} == {"__init__.py", "settings.py"}
    for words in (["--help"], ["gateway", "--help"], ["db", "upgrade", "--database", "sqlite:///new.db"]):
        command = [sys.executable, "-m", "edgedraft", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def _pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_vllm_is_the_version_that_the_engine_is_written_for() -> None:
    """In the image, in its constraints, in the extra."""
    runs = " ".join(word for command in commands("verifier-vllm") for word in command.value)
    pins, project = _pins("constraints-vllm.txt"), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in PACKAGES:
        assert re.search(rf"\s{package}=={re.escape(VERSION)}\s", f"{runs} "), package
        assert pins[package] == VERSION
    extras = project["optional-dependencies"]
    assert extras["vllm"] == ["edgedraft[verifier]", f"vllm=={VERSION}"]
    assert not any(re.search(r"\bvllm\b", line) for name, lines in extras.items() if name != "vllm" for line in lines)


def test_what_vllm_pins_is_what_this_project_takes() -> None:
    project, pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], _pins("constraints-vllm.txt")
    assert Version(pins["llguidance"]) < Version("1.8"), "vLLM asks for that"
    for line in [
        *project["dependencies"],
        *(line for extra in ("verifier", "otel") for line in _extra(project, extra)),
    ]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line


def test_nothing_but_the_source_goes_into_a_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert kept >= {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "constraints.txt"}
    assert not {"tests", ".git", ".venv"} & kept
