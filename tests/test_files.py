"""Files and folders appear whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from anyres.errors import DataError
from anyres.files import check_writable, make_folder, read_json, remove_leftovers, replacing, write_json, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(target: Path, error: BaseException) -> None:
    """A file, or a folder where one stands, that fails halfway."""
    with replacing(target) as temporary:
        if target.is_dir():
            temporary.mkdir()
        (temporary / "new" if target.is_dir() else temporary).write_text("half")
        raise error


def test_what_was_written_takes_the_place(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    for text in ("one", "two"):
        with replacing(target) as temporary:
            temporary.write_text(text)
        assert target.read_text() == text
    assert names(tmp_path) == ["a.txt"]


def test_nothing_stands_at_the_path_before_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent  # a rename across disks would not be atomic
        assert target.read_text() == "old"


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_the_old_file_and_no_temporary(tmp_path: Path, existed: bool) -> None:
    target = tmp_path / "a.txt"
    if existed:
        target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(target, ZeroDivisionError())
    assert names(tmp_path) == (["a.txt"] if existed else [])
    assert not existed or target.read_text() == "old"


def test_a_failure_leaves_the_old_folder_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target, KeyboardInterrupt())
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["old"]


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("one", "two"):
        with replacing(target) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / name).write_text(name)
        assert names(target / "deep") == [name]
    assert names(tmp_path) == ["folder"]


def test_the_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.replace

    def spy_sync(descriptor: int) -> None:
        done.append("content" if stat.S_ISREG(os.fstat(descriptor).st_mode) else "folder")
        sync(descriptor)

    def spy_rename(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(Path, "replace", spy_rename)
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("a")
        (temporary / "b").write_text("b")
    assert done == ["content", "content", "folder", "rename", "folder"]


def test_files_get_the_permissions_that_the_user_gives(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("a")
            temporary.chmod(0o600)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # asking for the mask does not change it
    finally:
        os.umask(mask)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full(tmp_path: Path, number: int) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(DataError, match="disk is full") as raised:
        write_half(target, OSError(number, os.strerror(number)))
    assert str(target) in raised.value.got
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_may_not_be_written_is_said(tmp_path: Path, number: int) -> None:
    with pytest.raises(DataError, match=os.strerror(number)), writing(tmp_path / "a"):
        raise OSError(number, os.strerror(number))


def test_other_failures_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too many") as raised, writing(tmp_path / "a"):
        raise OSError(errno.EMFILE, "too many open files")
    assert raised.value.errno == errno.EMFILE


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a" / "b")
    assert make_folder(folder) == folder
    assert names(folder) == []


def test_a_folder_below_or_at_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="cannot write"):
            make_folder(path)
    assert (tmp_path / "file").read_text() == "precious"


def test_what_can_be_written_to_is_known_before_it_is_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(DataError, match=f"cannot write {path}: "):
            check_writable(path)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # root, as which the tests may run, is refused nothing
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(DataError, match="may write to"):
        make_folder(tmp_path / "a")


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.123.tmp").write_text("half")
    (tmp_path / ".folder.123.tmp" / "deep").mkdir(parents=True)
    (tmp_path / "mine.tmp").write_text("precious")
    (tmp_path / ".hidden").write_text("precious")
    (tmp_path / "a.txt").write_text("old")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "a.txt", "mine.tmp"]
    remove_leftovers(tmp_path / "missing")


def test_the_temporaries_names_are_those_that_are_removed(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        remove_leftovers(tmp_path)
        assert not temporary.exists()
        temporary.write_text("whole")
    assert names(tmp_path) == ["a.txt"]


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"label": "Übersee × 猫", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "猫" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == 1
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"{'a': 1}"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match="is not valid JSON") as raised:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in raised.value.got


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "a.json")


def test_a_folder_in_the_place_of_a_json_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)
