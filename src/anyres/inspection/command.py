"""`anyres inspect`."""

from pathlib import Path

from ..errors import BackendError, ConfigError, DataError
from ..grid import Size
from ..latents.format import INFO, LatentDataset
from ..sample.pipeline import Pipeline
from .attention import pack_attention
from .dataset import dataset_report
from .options import InspectOptions
from .plots import plot_attention, plot_dataset


def inspect(options: InspectOptions) -> str:
    """Do what the options ask for; returns what to print.

    Raises:
        AnyResError: bad input, as the parts raise it.
    """
    return _attention(options) if options.attention else _dataset(options)


def _dataset(options: InspectOptions) -> str:
    path = Path(options.path)
    if path.is_dir() and not (path / INFO).is_file() and (path / "config.json").is_file():
        raise DataError(
            f"{path} is a model or a training run, not a dataset",
            wanted="a dataset, as anyres prepare writes it",
            fix=f"to see where its tokens look: anyres inspect {path} --attention",
        )
    report = dataset_report(LatentDataset.open(path), options.patch, options.budgets)
    try:
        plots = ", ".join(str(plot) for plot in plot_dataset(report, options.out or path / "inspect"))
    except BackendError as error:  # the tables are worth having without
        plots = f"none, since {error.got}: {error.fix}"
    return f"{report}\n\nplots: {plots}"


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
