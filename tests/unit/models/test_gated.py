"""A repository that is gated: one line says how it is had, wherever a model is named."""

from __future__ import annotations

from typing import Any

import httpx2
import huggingface_hub
import pytest
import transformers.utils.hub
from huggingface_hub.errors import GatedRepoError
from toys import runs

from mmssl.cli import main

REPO = "facebook/dinov3-vits16-pretrain-lvd1689m"


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of every repository is gated."""

    def download(repo: str, *args: Any, **kwargs: Any) -> str:
        response = httpx2.Response(403, request=httpx2.Request("GET", f"https://huggingface.co/{repo}"))
        raise GatedRepoError(f"Access to model {repo} is restricted.\nPlease log in.", response=response)

    for module in (huggingface_hub, transformers.utils.hub):
        monkeypatch.setattr(module, "hf_hub_download", download)


@pytest.mark.parametrize("place", ["model.from", "model.towers.image.from", "evaluate"])
def test_it_says_how_to_get_access(closed: None, tmp_path: Any, capsys: Any, place: str) -> None:
    if place == "evaluate":
        code = main(["evaluate", REPO, "--data", "builtin:digits", "--task", "rankme"])
    else:
        code = runs.cli(tmp_path, f"{place}={REPO}")
    (line,) = runs.errors(capsys.readouterr().err)
    assert code == 2 and f"it is gated: accept its terms at https://huggingface.co/{REPO} and log in" in line
    assert "or download it elsewhere and name its folder instead" in line and not (tmp_path / "run").exists()
