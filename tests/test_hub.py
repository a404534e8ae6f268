"""Names are looked up in their order, and the hub's failures are ours."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from anyres import hub
from anyres.errors import ConfigError, DataError


def refuse(*args: Any, **kwargs: Any) -> str:
    raise RuntimeError("no route\nmore")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mini", "medium"):
        (tmp_path / "models" / name).mkdir(parents=True)
    monkeypatch.setattr(hub, "MODELS", tmp_path / "models")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_path_before_the_box_before_the_hub(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.resolve("mini") == box / "models" / "mini"
    (box / "here" / "mini").mkdir()
    assert hub.resolve("mini") == Path("mini")
    (box / "here" / "owner" / "name").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert hub.resolve("owner/name") == Path("owner/name")


def test_the_hub_is_asked_only_for_what_is_not_pickled(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repo_id: str, **kwargs: Any) -> str:
        asked.update(kwargs, repo_id=repo_id)
        return str(box)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("owner/name", revision="v1") == box
    assert asked == {"repo_id": "owner/name", "revision": "v1", "allow_patterns": ["*.json", "*.safetensors"]}


@pytest.mark.parametrize("name", ["", " ", "nothing", "/no/such", "./owner/name", "a/b/c", "owner/"])
def test_names_of_nothing_never_ask_the_hub(name: str, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ConfigError, match="medium, mini"):
        hub.resolve(name)


def test_close_matches_are_named(box: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mini'"):
        hub.resolve("mimi")


def test_failures_of_the_hub(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(DataError, match=r"'owner/name' from the hub: no route\n.*\n.*pass a local folder"):
        hub.resolve("owner/name")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(DataError, match="cannot upload to 'owner/name'"):
        hub.upload_folder(box, "owner/name")


def test_a_data_sets_commit_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    class Found:
        sha = "c" * 40

    def info(_api: Any, repo_id: str, *, revision: str | None) -> Found:
        asked.append((repo_id, revision))
        return Found()

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    assert hub.dataset_commit("owner/name", "v1") == "c" * 40
    assert asked == [("owner/name", "v1")]
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(DataError, match=r"gives no data set of this name: no route\n.*\n.*hf:NAME@COMMIT"):
        hub.dataset_commit("owner/name", None)
