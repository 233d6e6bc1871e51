"""What a MODEL on the Hub is, and how often an unreachable Hub is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from mmssl.errors import UserError
from mmssl.models.locating import CONFIG, TASK, locate

Fetch = Callable[..., str]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fetch], list[tuple[str, bool]]]:
    """Let `fetch` answer for the Hub's client; what was asked for, and whether the cache alone was."""
    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr("mmssl.names.reachable", lambda: True)

    def use(fetch: Fetch) -> list[tuple[str, bool]]:
        def client(repo: str, name: str, local_files_only: bool = False) -> str:
            calls.append((name, local_files_only))
            return fetch(repo, name, local_files_only)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", client)
        return calls

    return use


def test_a_hub_that_cannot_be_reached_is_asked_once(asked: Callable[[Fetch], list[tuple[str, bool]]]) -> None:
    """Its client waits 23 s each time."""

    def fetch(repo: str, name: str, cached: bool) -> str:
        raise LocalEntryNotFoundError("Please check your\nconnection.")

    calls = asked(fetch)
    with pytest.raises(UserError, match=r"a/b: no such folder here.*\(Please check your connection\.\)$"):
        locate("a/b")
    assert [cached for _, cached in calls] == [False] + [True] * (len(calls) - 1)


def test_no_such_repository_is_asked_once_and_told(asked: Callable[[Fetch], list[tuple[str, bool]]]) -> None:
    def fetch(repo: str, name: str, cached: bool) -> str:
        if cached:
            raise LocalEntryNotFoundError("not in the cache")
        raise RepositoryNotFoundError("404: Repository Not Found", response=Mock(headers={}))

    calls = asked(fetch)
    with pytest.raises(UserError, match="Repository Not Found"):
        locate("a/b")
    assert sum(not cached for _, cached in calls) == 1


def test_what_the_cache_holds_is_opened_without_the_hub(
    asked: Callable[[Fetch], list[tuple[str, bool]]], tmp_path: Path
) -> None:
    """The client returns a cached file itself where the Hub does not answer; what is in no cache is not there."""
    (tmp_path / CONFIG).write_text('{"model_type": "mmssl"}')
    (tmp_path / TASK).write_text("{}")

    def fetch(repo: str, name: str, cached: bool) -> str:
        if (tmp_path / name).is_file():
            return str(tmp_path / name)
        raise LocalEntryNotFoundError("not in the cache")

    calls = asked(fetch)
    found = locate("a/b")
    assert (found.kind, found.task, found.local, found.place) == ("mmssl", True, False, "a/b")
    assert sum(not cached for _, cached in calls) == 2  # config.json, and the first that the cache lacks


def test_files_that_a_repository_lacks_do_not_end_the_questions(
    asked: Callable[[Fetch], list[tuple[str, bool]]], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    def fetch(repo: str, name: str, cached: bool) -> str:
        if (tmp_path / name).is_file():
            return str(tmp_path / name)
        raise EntryNotFoundError(name)

    calls = asked(fetch)
    assert locate("a/b").kind == "peft"
    assert not any(cached for _, cached in calls)
