"""A disk that turns read-only in the middle of a run, as ext4 does on an error, costs what was not written yet."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import runs

from mmssl import files
from mmssl.files import whole_file, whole_folder
from mmssl.training.loop import Loop


def _said(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no ext4 disk in a file here: {' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture
def failing_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsynced: Any
) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """(where a disk is mounted, turns it read-only, repairs it)."""
    monkeypatch.setattr(os, "fsync", unsynced)
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("mkfs.ext4", "mount", "findmnt", "e2fsck")):
        pytest.skip("a disk that fails needs root and the tools of ext4")
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    _said("mkfs.ext4", "-q", "-F", image)

    def mount() -> None:
        _said("mount", "-o", "loop,errors=remount-ro", image, folder)

    def fail() -> None:
        device = Path(_said("findmnt", "-no", "SOURCE", folder)).name
        try:
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1\n")
        except OSError as error:
            pytest.skip(f"the kernel lets no disk fail here: {error}")
        with pytest.raises(OSError) as caught:
            (folder / "x").write_text("x")
        assert caught.value.errno == errno.EROFS

    def repair() -> None:
        _said("umount", folder)
        subprocess.run(["e2fsck", "-fy", image], capture_output=True)
        mount()

    mount()
    try:
        yield folder, fail, repair
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True)


@pytest.mark.slow
def test_a_run_ends_in_one_line_and_goes_on_once_the_disk_is_repaired(
    failing_disk: tuple[Path, Callable[[], None], Callable[[], None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, fail, repair = failing_disk
    assert runs.cli(tmp_path, output="straight") == 0
    real = Loop.save

    def save(self: Loop, step: int, *rest: Any) -> None:
        if step == 4:
            fail()
        real(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", save)
        assert runs.cli(tmp_path, output="disk/run") == 1
    (line,) = runs.errors(capsys.readouterr().err)
    assert "Read-only file system" in line and "step-00000002" in line
    said = [record.getMessage() for record in caplog.records]
    assert sum("metrics could not be written" in message for message in said) == 1
    assert any("step-00000004 could not be written" in message and "training goes on" in message for message in said)
    repair()  # what was not on the disk is gone, or empty
    assert runs.checkpoints(disk / "run") == ["step-00000002"]
    assert runs.cli(tmp_path, "--resume", output="disk/run") == 0
    runs.assert_same_weights(disk / "run", tmp_path / "straight")


def test_a_file_system_that_cannot_sync_folders_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = errno.EINVAL

    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    (tmp_path / "x").write_text("x")
    files.sync(tmp_path)
    with pytest.raises(OSError):
        files.sync(tmp_path / "x")
    number = errno.EROFS
    with pytest.raises(OSError):
        files.sync(tmp_path)


def test_what_is_whole_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `config.yaml` that was empty after a crash made runs whose checkpoints were whole useless."""
    done: list[str] = []
    real, replace, rename = os.fsync, os.replace, Path.rename

    def fsync(descriptor: int) -> None:
        done.append(f"synced {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", lambda a, b: (done.append(f"named {Path(b).name}"), replace(a, b)))
    monkeypatch.setattr(Path, "rename", lambda self, to: (done.append(f"named {Path(to).name}"), rename(self, to)))
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(whole_file(tmp_path / "config.yaml"))
        partial.write_text("a: 1")
        temporary = partial.name
    assert done == [f"synced {temporary}", "named config.yaml", f"synced {tmp_path.name}"]
    done.clear()
    with whole_folder(tmp_path / "model") as folder:
        (folder / "text").mkdir()
        for name in ("weights", "text/tokens"):
            (folder / name).write_text("x")
    assert sorted(done[:4]) == ["synced .model.partial", "synced text", "synced tokens", "synced weights"]
    assert done[4:] == ["named model", f"synced {tmp_path.name}"]
