"""The rules of the architecture, checked against the syntax trees of ``src/``."""

import ast
from pathlib import Path

import pytest

from blitz.config.paths import CONFIGS, PROJECT

SRC = PROJECT / "src" / "blitz"
SCRIPTS = {"train", "eval", "predict", "export", "compare", "doctor"}  # console scripts
TWINS = {
    "data",
    "model",
    "task",
    "optimizer",
    "callback",
    "device",
    "logger",
}  # one file per config, reached only by `_target_`
SHARED = {"errors", "config", "process", "runs"}
OF_FORKS = {"schedule"}  # torch's classes are enough here; CONTRIBUTING.md shows how to add one
# A package or module of blitz, and those that it may import beside itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "process": {"errors", "config"},
    "runs": {"errors", "config", "process"},
    "terminal": SHARED,
    "plots": SHARED,
    "training": SHARED,
    "cli": SHARED,
    "sweep": {*SHARED, "terminal"},
    **{script: {*SHARED, "cli", "terminal", "training", "sweep"} for script in SCRIPTS},
    **{twin: {*SHARED, "plots"} for twin in TWINS},
}
KNOWS_HYDRA = {"config", "cli", "sweep", "training", "runs", *SCRIPTS}
WITHOUT_LIGHTNING = {"model", "optimizer", "config", "process.random_state", "process.ranks", "process.signals",
                     "plots", "data.transforms", "data.augment", "data.per_image", "data.seeding", "data.loader",
                     "errors"}  # fmt: skip
DRAWS_METRICS = {"plots"}
WITHOUT_TORCH_AT_IMPORT = {"errors", "config", "cli", "process.ranks", "process.signals", "runs.overrides", "runs.lock",
                           "runs.compatibility", "runs.folder", "runs.metadata", "runs.reproduce", "runs.status",
                           "runs.collect", "runs.compare", "runs.statistics", "runs.table", "runs.plot", "sweep",
                           "terminal", "train", "eval", "compare", "predict", "export"}  # fmt: skip
FILES = sorted(SRC.rglob("*.py"))
MODULES = {path: ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__") for path in FILES}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Return every imported module, and every imported name with its module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def belongs_to(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_imports_point_down(path: Path) -> None:
    package = MODULES[path].partition(".")[0]
    own = {name.split(".")[1] for name in imports(path) if name.startswith("blitz.")}
    assert own <= ALLOWED.get(package, SHARED if package in OF_FORKS else set()) | {package}


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_only_some_packages_know_a_library(path: Path) -> None:
    module = MODULES[path]
    libraries = {name.partition(".")[0] for name in imports(path)}
    if not belongs_to(module, KNOWS_HYDRA):
        assert not libraries & {"hydra", "omegaconf"}
    if belongs_to(module, WITHOUT_LIGHTNING | OF_FORKS):
        assert "lightning" not in libraries
        assert module in DRAWS_METRICS or "torchmetrics" not in libraries
    if belongs_to(module, WITHOUT_TORCH_AT_IMPORT):
        assert not {name.partition(".")[0] for name in imports(path, top_level_only=True)} & {"torch", "lightning"}


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_private_modules_stay_in_their_package(path: Path) -> None:
    package = "blitz." + MODULES[path].rpartition(".")[0]
    private = {name for name in imports(path) if name.startswith("blitz.") and "._" in name}
    assert all(name.startswith(f"{package}._") for name in private)


def test_rules_name_existing_packages() -> None:
    """A rule about a package that does not exist checks nothing."""
    modules = set(MODULES.values())
    for packages in (set(ALLOWED), KNOWS_HYDRA, WITHOUT_LIGHTNING, WITHOUT_TORCH_AT_IMPORT):
        assert packages <= modules
    assert {module.partition(".")[0] for module in modules} - {"__init__"} - OF_FORKS == set(ALLOWED)
    assert all((CONFIGS / twin).is_dir() for twin in TWINS)


def test_tests_mirror_the_modules() -> None:
    """Every module needs a test of the same name, except in ``TWINS``: a fork may add a model without a test."""
    modules = {path.relative_to(SRC) for path in FILES if path.name != "__init__.py"}
    expected = {path.with_name(f"test_{path.name}") for path in modules}
    tests = {path.relative_to(PROJECT / "tests") for path in (PROJECT / "tests").rglob("test_*.py")}
    required = {path for path in expected if path.parts[0] not in TWINS | OF_FORKS}
    assert required <= tests
    mirrored = {path for path in tests if len(path.parts) > 1 and path.parts[0] != "scripts"}
    assert mirrored <= expected


def test_hydra_plugins_is_a_namespace_package() -> None:
    """Hydra finds plugins of several distributions only if none of them has an ``__init__.py`` there."""
    assert (SRC.parent / "hydra_plugins").is_dir()
    assert not (SRC.parent / "hydra_plugins" / "__init__.py").exists()
