"""Imports point one way, need little, and do nothing."""

import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import anyres

ROOT = Path(__file__).parents[1]
# Triton is not everywhere: these are imported only where its kernels are chosen
WITH_TRITON = re.compile(r"anyres\.((model|latents)\.fused|model\.tiled_attention|(model|train|latents)\.kernels\.)")
FOUND = sorted(m.name for m in pkgutil.walk_packages(anyres.__path__, "anyres."))
MODULES = [name for name in FOUND if not WITH_TRITON.match(name)]
FLOW = [name for name in MODULES if name.startswith("anyres.flow")]

# Only what some distributions need can be imported: the standard library, they, and what they require themselves.
WHITELIST = """
import importlib.abc, importlib.metadata as metadata, re, sys

def closure(names):
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [re.match("[A-Za-z0-9._-]+", line)[0] for line in required if "extra ==" not in line]
    return found

allowed = closure(sys.argv[1].split(",")) | {"anyres"}
third_party = {
    top: {re.sub("[-_.]+", "-", name).lower() for name in names}
    for top, names in metadata.packages_distributions().items()
}
blocked = {top for top, names in third_party.items() if not names & allowed}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)


def import_with(distributions: str, modules: list[str]) -> subprocess.CompletedProcess[str]:
    loop = "\nimport importlib\nfor name in sys.argv[2].split(','): importlib.import_module(name)"
    return python(WHITELIST + loop, distributions, ",".join(modules))


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    return python(
        "import sys; from importlinter.cli import lint_imports;"
        "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))",
        str(config),
    )


def test_imports_point_one_way() -> None:
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_an_import_the_other_way_would_be_found(tmp_path: Path) -> None:
    contract = "[importlinter]\nroot_package = anyres\n[importlinter:contract:1]\nname = reversed\ntype = layers\n"
    (tmp_path / ".importlinter").write_text(contract + "layers =\n  anyres.errors\n  anyres.grid\n")
    done = lint(tmp_path / ".importlinter")
    assert done.returncode != 0
    assert "anyres.grid -> anyres.errors" in done.stdout


def test_every_part_has_its_place_in_the_layers() -> None:
    """A new module that no layer names would be free to import anything."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {part.strip() for layer in contract["layers"] for part in layer.split("|")}
    parts = {".".join(name.split(".")[:2]) for name in MODULES}
    assert named <= parts
    # devices stands outside: it imports nothing of ours but errors
    assert parts - named <= {"anyres.devices"}


def test_network_and_mathematics_and_packs_need_torch_alone() -> None:
    """And numpy, einops and safetensors, which need nothing themselves."""
    assert len(FLOW) > 4
    done = import_with("torch,numpy,einops,safetensors", ["anyres.model.nit", "anyres.packing.pack", *FLOW])
    assert done.returncode == 0, done.stderr


def test_what_is_not_allowed_is_blocked() -> None:
    done = import_with("torch,numpy,einops,safetensors", ["anyres.inspection.options"])
    assert done.returncode != 0
    assert "tyro is blocked" in done.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import anyres; print(*sorted(set(sys.modules) - before))"
    done = python(code)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert [name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names] == ["anyres"]


STATE = """
import importlib, json, logging, os, random, signal, sys
import numpy, torch

def state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [str(part) for part in numpy.random.get_state()],
        "random": hash(random.getstate()),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "tf32": torch.get_float32_matmul_precision(),
        "handlers": len(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
    }

before = state()
for name in sys.argv[2].split(","):
    importlib.import_module(name)
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


@pytest.fixture(scope="module")
def all_imported() -> subprocess.CompletedProcess[str]:
    """Every module imported, with the core dependencies alone; prints what of the process it changed."""
    lines = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("]")[0].split('"')[1::2]
    core = [line.partition(">")[0] for line in lines]
    assert "torch" in core
    assert "matplotlib" not in core
    return python(WHITELIST + STATE, ",".join(core), ",".join(MODULES))


def test_every_module_imports_without_the_extras(all_imported: subprocess.CompletedProcess[str]) -> None:
    assert all_imported.returncode == 0, all_imported.stderr


def test_importing_every_module_does_nothing_else(all_imported: subprocess.CompletedProcess[str]) -> None:
    assert json.loads(all_imported.stdout) == []  # and nothing else was printed


@pytest.mark.parametrize("name", anyres.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(anyres, name)
    assert name == "__version__" or value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuch'"):
        anyres.NoSuch  # noqa: B018
