"""The command line: `anyres prepare | inspect | train | sample | merge | evaluate | reference | demo | …`.

`anyres --help` must answer at once, so nothing heavy is imported before a command is known.
"""

import atexit
import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

from .errors import AnyResError

USAGE = """\
usage: anyres [-v] COMMAND ...

Native-resolution image synthesis: models trained on images at their own size and shape,
which make images of any size and shape.

commands:
  prepare   images → a dataset of latents
  inspect   what is in a dataset, or came of a training run, as tables and plots; or a model's attention
  train     train a model by a recipe, or continue a run
  sample    labels and sizes → images
  merge     an adapter and its base model → a model by itself
  evaluate  how near made images are to real ones: a report, a comparison, or a sweep
  reference what real images look like to a feature network, kept to evaluate against
  demo      a local web page to play with a model
  import-released  the latents that were published with the method → a dataset

options:
  -h, --help     this text; `anyres COMMAND --help` for a command's options
  -v, --verbose  say more
  --version      the version

anyres prepare IMAGES --out DATA
anyres train tutorial --data DATA --out RUN
anyres sample RUN --label NAME --size 256x128
"""

TRAIN_DESCRIPTION = "Train by a recipe, or continue the run in --out. Every field of the recipe is an option."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 for bad input, or 128 + the signal that stopped a run."""
    rest = list(sys.argv[1:] if arguments is None else arguments)
    verbose = any(flag in rest for flag in ("-v", "--verbose"))
    rest = [argument for argument in rest if argument not in ("-v", "--verbose")]
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="anyres: %(message)s")
    try:
        try:
            return _run(rest)
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is expected, and not when Python ends
    except BrokenPipeError:  # the reader of our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from . import __version__

        print(f"anyres {__version__}")
        return 0
    command, *rest = arguments
    # torch's OpenMP threads wait for each other by spinning, by default so long that two programs on one CPU slow each
    # other down ninefold; read when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    atexit.register(_spare_collection)
    return reporting_errors(f"anyres {command}", lambda: _command(command)(rest))


def _spare_collection() -> None:
    """At its end Python looks for garbage once more, among all that the libraries have made: most of a second."""
    if "triton" not in sys.modules:  # whose bindings would call what is left a leak, on stderr
        gc.freeze()


def reporting_errors(name: str, work: Callable[[], int]) -> int:
    """Run a program's work; what a user can cause is printed without a traceback.

    Args:
        name: of the program, for the message.
        work: gives the exit status.

    Returns:
        The exit status: that of the work, 2 for bad input, 130 for Ctrl-C.
    """
    try:
        return work()
    except AnyResError as error:
        if _first_to_say(str(error)):
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def _together() -> bool:
    """Whether torchrun has started this process among others."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _first_to_say(text: str) -> bool:
    """Whether no other process that was started together with this one has said it."""
    if not _together():
        return True
    from .ranks import Ranks

    return Ranks.from_environment().first_to_say(text)


@contextmanager
def _parsing() -> Iterator[None]:
    """Help and complaints about options, which end the program, come from one of several processes."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            yield
        except SystemExit as ending:
            left = ending
        else:
            return
    if _first_to_say(said.getvalue()):
        print(said.getvalue(), end="", file=sys.stderr if left.code else sys.stdout, flush=True)
    raise left


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        from .config import suggestion
        from .errors import ConfigError

        raise ConfigError(
            "there is no such command",
            wanted=f"one of {', '.join(COMMANDS)}",
            fix=suggestion(name, COMMANDS) or "see anyres --help",
        )
    return COMMANDS[name]


def _parse(kind: Any, command: str, arguments: list[str], description: str, **settings: Any) -> Any:
    import tyro

    with _parsing() if _together() else nullcontext():
        return tyro.cli(
            kind,
            prog=f"anyres {command}",
            description=description,
            args=arguments,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
            **settings,
        )


def _prepare(arguments: list[str]) -> int:
    from .prepare.options import PrepareOptions

    options = _parse(PrepareOptions, "prepare", arguments, "Images → a dataset of latents.")
    from .prepare.encode import prepare

    report = prepare(options)
    if report.leads:  # one process of several speaks
        print(report)
    return 0


def _import_released(arguments: list[str]) -> int:
    from .prepare.options import ImportOptions

    options = _parse(ImportOptions, "import-released", arguments, "The published latents → a dataset.")
    from .prepare.released import import_released

    print(import_released(options))
    return 0


def _inspect(arguments: list[str]) -> int:
    from .inspection.options import InspectOptions

    options = _parse(
        InspectOptions, "inspect", arguments, "What is in a dataset, what came of a run, where tokens look."
    )
    from .inspection.command import inspect

    print(inspect(options))
    return 0


def _sample(arguments: list[str]) -> int:
    from .hub import built_in
    from .sample.options import SampleOptions

    box = f" Models in the box: {', '.join(built_in())}." if built_in() else ""
    options = _parse(SampleOptions, "sample", arguments, f"Labels and sizes → images.{box}")
    from .sample.command import run

    saved = run(options)
    if saved is not None:  # one process of several speaks
        print(saved)
    return 0


def _merge(arguments: list[str]) -> int:
    from .sample.options import MergeOptions

    options = _parse(MergeOptions, "merge", arguments, "An adapter and its base model → a model by itself.")
    from .sample.command import merge

    print(merge(options))
    return 0


def _evaluate(arguments: list[str]) -> int:
    from .evaluate.options import EvaluateOptions

    options = _parse(EvaluateOptions, "evaluate", arguments, "How near made images are to real ones.")
    from .evaluate.command import run

    text = run(options)
    if text:  # one process of several speaks
        print(text)
    return 0


def _reference(arguments: list[str]) -> int:
    from .evaluate.options import ReferenceOptions

    options = _parse(ReferenceOptions, "reference", arguments, "Measure real images once, to evaluate against.")
    from .evaluate.command import reference

    print(reference(options))
    return 0


def _demo(arguments: list[str]) -> int:
    from .demo.options import DemoOptions

    options = _parse(DemoOptions, "demo", arguments, "A local web page to play with a model.")
    from .demo.command import run

    run(options)
    return 0


def _train(arguments: list[str]) -> int:
    from .recipes.command import PlanOptions, exit_status, options_parser, report, run

    options = _parse(options_parser(arguments), "train", arguments, TRAIN_DESCRIPTION)
    if isinstance(options, PlanOptions):
        if _first_to_say(options.text):
            print(options.text)
        return 0
    finished = run(options)
    if finished.leads:  # one process of several speaks
        print(report(finished))
    return exit_status(finished)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "prepare": _prepare,
    "inspect": _inspect,
    "train": _train,
    "sample": _sample,
    "merge": _merge,
    "evaluate": _evaluate,
    "reference": _reference,
    "demo": _demo,
    "import-released": _import_released,
}

if __name__ == "__main__":
    sys.exit(main())
