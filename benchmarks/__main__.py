"""`python -m benchmarks NAME [options]`, from a clone's root."""

import ast
import importlib
import sys
from pathlib import Path

NAMES = (
    "training",
    "training_plot",
    "sizes",
    "sizes_plot",
    "cpu",
    "float8_loss",
    "float8_samples",
    "sampling",
    "many_gpus",
    "floors",
    "attention",
    "codec",
    "packing",
    "dealing",
    "loader",
    "pack_variance",
    "balance",
    "balance_plots",
    "position_order",
    "position_order_plots",
)


def main() -> None:
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [options]; NAME --help lists a benchmark's options\n")
        print("\n".join(f"{name:21} {_first_line(name)}" for name in NAMES))
        return
    if name not in NAMES:
        sys.exit(_refused(f"there is no benchmark {name!r}; there are {', '.join(NAMES)}"))
    sys.argv = [f"python -m benchmarks {name}", *options]
    module = importlib.import_module(f"benchmarks.{name}")
    from anyres.errors import AnyResError

    try:
        module.main()
    except AnyResError as error:
        sys.exit(_refused(str(error)))


def _refused(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _first_line(name: str) -> str:
    """Of a benchmark's docstring, without importing what the benchmark needs."""
    text = (Path(__file__).parent / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


if __name__ == "__main__":
    main()
