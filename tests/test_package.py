"""The package as it is installed: what importing it costs, what it ships, and which way its imports point."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ega_jax
from ega_jax import cli

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ega_jax"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120)


# ------------------------------------------------------------------------------------------------------------- imports


def test_the_loss_imports_nothing_that_jax_does_not():
    program = """
import sys
import jax, jax.numpy
before = set(sys.modules)
import ega_jax
ega_jax.ega_loss, ega_jax.info_nce_loss
from ega_jax.losses import sharded_ega_loss
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - set(sys.stdlib_module_names)))
"""
    finished = run("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert set(finished.stdout.split()) <= {"ega_jax", "jax", "jaxlib"}


def test_public_names_are_there_and_others_are_not():
    assert set(ega_jax.__all__) == {"Embedder", "ega_loss", "info_nce_loss"}
    for name in ega_jax.__all__:
        assert getattr(ega_jax, name).__name__ == name
        assert name in dir(ega_jax)
    with pytest.raises(AttributeError, match="no attribute 'ega_los'"):
        ega_jax.ega_los  # noqa: B018


@pytest.mark.parametrize("package", ["losses", "models", "evaluation"])
def test_what_a_package_announces_it_has(package):
    module = importlib.import_module(f"ega_jax.{package}")
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


# -------------------------------------------------------------------------------------------------------- command line


def test_help_exits_with_0_and_names_every_command():
    finished = run("-m", "ega_jax", "--help")
    assert finished.returncode == 0, finished.stderr
    for command in cli.COMMANDS:
        assert re.search(rf"^  {command} ", finished.stdout, re.M)


def test_an_unknown_command_exits_with_2_and_a_suggestion():
    finished = run("-m", "ega_jax", "evla", "runs/demo")
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.strip().splitlines() == ["ega-jax: unknown command 'evla'; did you mean 'eval'?"]


# ------------------------------------------------------------------------------------------------------ what is shipped


def test_versions_agree():
    version = PROJECT["project"]["version"]
    assert ega_jax.__version__ == version
    assert importlib.metadata.version("ega-jax") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert newest in (version, "Unreleased")


def test_every_file_that_is_not_code_is_shipped():
    listed = set(PROJECT["tool"]["setuptools"]["package-data"]["ega_jax"])
    assert {"py.typed", "evaluation/report/style.css"} <= listed
    present = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert present == listed


def test_the_license_is_the_one_announced():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()


def test_what_is_imported_is_required():
    """Each third-party import is of a package that pyproject.toml names, or that one of those itself requires."""
    project = PROJECT["project"]
    assert [_name(requirement) for requirement in project["dependencies"]] == ["jax"]
    extras = project["optional-dependencies"]
    named = {
        "jax",
        *(_name(requirement) for extra in ("train", "wandb", "mteb", "search") for requirement in extras[extra]),
    }
    theirs = [importlib.metadata.requires(name) or () for name in named if _is_installed(name)]
    allowed = named | {
        _name(requirement) for all_of_one in theirs for requirement in all_of_one if ";" not in requirement
    }
    owners = importlib.metadata.packages_distributions()
    missing = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for module in imports_of(path, types_too=False):
            root = module.partition(".")[0]
            assert root not in ("torch", "tensorflow"), f"{path} imports {root}"
            if root not in sys.stdlib_module_names and root != "ega_jax":
                distributions = {_name(owner) for owner in owners.get(root, [root])}
                if not distributions & allowed:
                    missing.add(f"{path.relative_to(ROOT)} imports {root}")
    assert not missing, "pyproject.toml does not require what the package imports"


def _name(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def _is_installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


# ------------------------------------------------------------------------------------------------- which way imports go

MUST_NOT_IMPORT = {
    "losses": ("models", "data", "training", "evaluation", "conversion", "inspection", "embedder", "commands", "cli"),
    "models": ("data", "training", "evaluation", "conversion", "inspection", "embedder", "commands", "cli"),
    "data": ("training", "evaluation", "conversion", "inspection", "embedder", "commands", "cli"),
    "training": ("evaluation", "conversion", "inspection", "embedder", "commands", "cli"),
    "evaluation": ("training", "losses", "conversion", "inspection", "embedder", "commands", "cli"),
    "inspection": ("training", "losses", "conversion", "embedder", "commands", "cli"),
}


@pytest.mark.parametrize("package", MUST_NOT_IMPORT)
def test_dependencies_point_one_way(package):
    forbidden = {f"ega_jax.{name}" for name in MUST_NOT_IMPORT[package]}
    paths = sorted((PACKAGE / package).rglob("*.py"))
    assert paths
    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in paths
        for module in imports_of(path, types_too=True)
        if ".".join(module.split(".")[:2]) in forbidden
    }
    assert not found


def imports_of(path, *, types_too):
    """Names of the modules that a file imports anywhere; without `types_too`, not those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(), str(path))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types_too:
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    modules = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from ega_jax import losses` names a module too.
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules
