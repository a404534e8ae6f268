"""From a name to a folder: an existing path, a model in the box, or a repository on the hub."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .config import suggestion
from .errors import CheckpointError, ConfigError, DataError, first_line

MODELS = Path(__file__).parent / "models"  # models in the box, a folder each

# nothing pickled is ever asked for
WANTED_FILES = ("*.json", "*.safetensors")


def resolve(name: str, *, revision: str | None = None, wanted: Sequence[str] = WANTED_FILES) -> Path:
    """The folder of a model, autoencoder or pipeline.

    Args:
        name: in this order an existing path, a model in the box, or a hub id (it contains "/").
        revision: branch, tag or commit of a hub repository.
        wanted: patterns of the files to download.

    Raises:
        ConfigError: the name is none of these.
        DataError: the hub cannot be reached, or has no such repository.
    """
    path = Path(name).expanduser()
    if name.strip() and path.exists():  # Path("") would be the working folder
        return path
    known = built_in()
    if name in known:
        return MODELS / name
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/"):
        return _download(name, revision, wanted)
    raise ConfigError(
        f"nothing is named {name!r}: there is no such path"
        + (f", and the models in the box are {', '.join(known)}" if known else ""),
        wanted="an existing folder, a model in the box, or a hub id such as owner/name",
        fix=suggestion(name, known) or "check the spelling",
    )


def lasting(name: str, folder: Path) -> tuple[str, str | None]:
    """A name and revision that mean the same from another working folder, and when a branch has moved on.

    Args:
        name: as `resolve` took it.
        folder: as `resolve` gave it.
    """
    if Path(name).expanduser().exists():
        return str(folder.resolve()), None
    # huggingface_hub keeps a download in snapshots/COMMIT
    return name, folder.name if folder.parent.name == "snapshots" else None


def built_in() -> list[str]:
    """Names of the models in the box."""
    return sorted(path.name for path in MODELS.iterdir() if path.is_dir()) if MODELS.is_dir() else []


def dataset_commit(repo_id: str, revision: str | None) -> str:
    """The commit of a data set's repository that a branch, a tag or None (its main branch) stands for now.

    Raises:
        DataError: the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repo_id, revision=revision).sha)
    except Exception as error:  # its transport, and with it the kinds of error, differ between versions
        raise DataError(
            f"there is no folder {repo_id}, and the hub gives no data set of this name: {first_line(error)}",
            wanted="an existing folder, or a repository and a connection to it",
            fix="check the name and the connection; offline, give the commit of a cached one: hf:NAME@COMMIT",
        ) from error


@contextmanager
def mended_by_installing(folder: Path) -> Iterator[None]:
    """Tell who finds damage in a model in the box to install it again: there is no other copy to restore it from."""
    try:
        yield
    except CheckpointError as error:
        if MODELS not in folder.parents:
            raise
        raise CheckpointError(
            error.got,
            wanted=error.wanted,
            fix="reinstall anyres: pip install --force-reinstall --no-deps WHEEL-OR-CHECKOUT",
        ) from error


def upload_folder(folder: Path, repo_id: str, *, private: bool = False) -> None:
    """Upload a folder to a hub repository, made if missing.

    Raises:
        DataError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(folder_path=str(folder), repo_id=repo_id)
    except Exception as error:  # its transport, and with it the kinds of error, differ between versions
        raise DataError(
            f"cannot upload to {repo_id!r}: {first_line(error)}",
            wanted="a connection to the hub, and the right to write there",
            fix="log in with `hf auth login`, and check the repository's name",
        ) from error


def _download(repo_id: str, revision: str | None, wanted: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(wanted)))
    except Exception as error:  # its transport, and with it the kinds of error, differ between versions
        raise DataError(
            f"cannot download {repo_id!r} from the hub: {first_line(error)}",
            wanted="an existing repository, and a connection to it",
            fix="check the name and the connection, or pass a local folder",
        ) from error
