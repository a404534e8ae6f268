"""A run's metrics sent to a tracker as well, where the recipe says so: W&B, or trackio, which has the same calls."""

import hashlib
import importlib
from pathlib import Path
from typing import Any, Literal

from ..config import to_dict
from ..errors import BackendError, first_line

TrackerName = Literal["wandb", "trackio"]
PROJECT = "anyres"


class Tracker:
    """Sends values to a run of a tracker; a run that is continued goes on there, too.

    Args:
        name: of the library.
        folder: the run's; its name is the run's there.
        config: a dataclass that is shown there.

    Raises:
        BackendError: the library is not installed, or refuses.
    """

    def __init__(self, name: TrackerName, folder: Path, config: Any) -> None:
        own: dict[str, Any] = {}
        if name == "wandb":  # it knows runs by an id, trackio by their name
            digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
            own = {"id": digest[:16], "dir": str(folder)}
        try:
            library: Any = importlib.import_module(name)
            self._run = library.init(project=PROJECT, name=folder.name, config=to_dict(config), resume="allow", **own)
        except ImportError as error:
            raise BackendError(
                f"the tracker {name} is not installed: {error}",
                wanted=f"the library {name}",
                fix=f"pip install {name}, or leave --tracker out",
            ) from error
        except Exception as error:  # no account, no connection: each library has its own kinds
            raise BackendError(
                f"the tracker {name} cannot be used: {first_line(error)}",
                wanted="an account and a connection, or its offline mode",
                fix="set it up as its documentation says, or leave --tracker out",
            ) from error

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Send a record's numbers, named as in TensorBoard."""
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
