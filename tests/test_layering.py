"""Imports go one way: pipelines -> sweeps -> easrec, and easrec knows no orchestration."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.store import NEVER_TRAINS

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "easrec": {"sweeps", "pipelines", "ray", "optuna", "mlflow"},
    "sweeps": {"pipelines"},
}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names.add((node.module or "").split(".")[0])
    return names


def modules_of(path: Path) -> set[str]:
    """Modules that a file names in imports; of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_layer_imports_nothing_from_above(package: str) -> None:
    assert sources(package)
    crossing = {
        str(path.relative_to(ROOT)): names
        for path in sources(package)
        if (names := imported(path) & FORBIDDEN[package])
    }
    assert crossing == {}


def test_nothing_that_trains_imports_what_results_of_training_do_not_depend_on() -> None:
    root = ROOT / "easrec"
    apart = {
        "easrec." + name.rstrip("/").removesuffix(".py").replace("/", ".")
        for name in NEVER_TRAINS
        if (root / name).exists()
    }
    assert len(apart) == len(NEVER_TRAINS)
    trains = [
        path
        for path in sources("easrec")
        if not path.relative_to(root).as_posix().startswith(tuple(NEVER_TRAINS))
    ]
    crossing = {
        str(path): name
        for path in trains
        for name in modules_of(path)
        if any(name == part or name.startswith(part + ".") for part in apart)
    }
    assert crossing == {}


def test_no_module_hides_one_of_the_standard_library() -> None:
    names = {path.stem for path in (ROOT / "pipelines").glob("*.py")}
    names |= {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert names & sys.stdlib_module_names == set()


def test_importing_the_core_loads_no_orchestration() -> None:
    modules = sorted(
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for path in sources("easrec")
    )
    program = (
        f"import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {sorted(FORBIDDEN['easrec'])!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
