"""`anyres inspect`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import BackendError, ConfigError, DataError
from ..grid import Size
from ..latents.format import INFO, LatentDataset
from ..sample.pipeline import Pipeline
from ..train.folder import RunFolder
from .attention import pack_attention
from .dataset import dataset_report
from .options import InspectOptions
from .plots import plot_attention, plot_dataset, plot_run
from .run import RunCurves, run_report


def inspect(options: InspectOptions) -> str:
    """Do what the options ask for; returns what to print.

    Raises:
        AnyResError: bad input, as the parts raise it.
    """
    if options.attention:
        return _attention(options)
    path = Path(options.path)
    return _run(options, path) if RunFolder(path).metrics.is_file() or options.beside else _dataset(options, path)


def _run(options: InspectOptions, path: Path) -> str:
    runs = [RunCurves.read(folder) for folder in (path, *options.beside)]
    return f"{run_report(runs[0], runs[1:])}\n\n{_plots(lambda: [plot_run(runs, options.out or path / 'inspect')])}"


def _plots(draw: Callable[[], Sequence[Path]]) -> str:
    """Where plots are, or why there are none: tables are worth having without."""
    try:
        return f"plots: {', '.join(str(plot) for plot in draw())}"
    except BackendError as error:
        return f"plots: none, since {error.got}: {error.fix}"


def _dataset(options: InspectOptions, path: Path) -> str:
    if path.is_dir() and not (path / INFO).is_file() and (path / "config.json").is_file():
        raise DataError(
            f"{path} is a model, not a dataset or a training run",
            wanted="a dataset, as anyres prepare writes it, or a run, as anyres train does",
            fix=f"to see where its tokens look: anyres inspect {path} --attention",
        )
    report = dataset_report(LatentDataset.open(path), options.patch, options.budgets)
    return f"{report}\n\n{_plots(lambda: plot_dataset(report, options.out or path / 'inspect'))}"


def _attention(options: InspectOptions) -> str:
    pipe = Pipeline.from_pretrained(options.path, device="auto", dtype="float32")
    px = pipe.px_per_token
    sizes = [Size.parse(size) for size in options.sizes] or [
        Size(8 * px, 8 * px),
        Size(6 * px, 11 * px),
        Size(12 * px, 5 * px),
    ]
    if len(sizes) != 3:
        raise ConfigError(f"got {len(sizes)} sizes", wanted="three, one an image", fix="pass three --sizes")
    labels = [i % len(pipe.labels.names) for i in range(3)]
    found = pack_attention(pipe.model, [size.grid(px) for size in sizes], labels)
    titles = [f"{pipe.labels.name(label)}\n{size}" for label, size in zip(labels, sizes, strict=True)]
    path = plot_attention(found, titles, options.out or Path("inspect"))
    return (
        f"a pack of {found.layout.tokens} tokens: {', '.join(title.replace(chr(10), ' ') for title in titles)}\n"
        f"most attention that a token gives to another image: {found.outside:.3g}\n"
        f"plot: {path}"
    )
