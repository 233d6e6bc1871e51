"""The card of an export, `README.md` of its folder: how to use it, the proof in numbers, what it was trained on."""

from __future__ import annotations

import re
from string import Template

from ..models.stock.exportable import Exportable
from ..models.stock.job import Job
from .proof import Proof

ORDER = ("What it was trained on", "How it was trained", "Scores", "Limits")
"""Sections that are taken over from the card of the model."""


def card_text(source: Exportable, name: str, title: str, job: Job, proof: Proof) -> str:
    """YAML metadata and Markdown."""
    from huggingface_hub import ModelCardData

    from ..files import shipped_folder
    from ..hub.card import software_versions

    template = Template((shipped_folder("hub_cards") / "export_card.md").read_text(encoding="utf-8"))
    cls = f"transformers.{job.cls}" if job.library == "transformers" else title
    data = ModelCardData(
        library_name={"open_clip": "open_clip", "sentence_transformers": "sentence-transformers"}.get(
            job.library, job.library
        ),
        # only where it was tried on this folder; sentence-transformers is its own library
        pipeline_tag=job.pipeline_tag if job.pipelines or job.library == "sentence_transformers" else None,
        tags=["mmssl", "self-supervised-learning", *job.tags],
    )
    body = template.substitute(
        title=f"{source.origin} ({name})",
        cls=cls,
        modalities=" and ".join(source.processor.types),
        usage=job.usage,
        notes="\n".join(f"- {line}" for line in job.notes),
        proof=proof_text(job, proof),
        versions=", ".join(f"{k} {v}" for k, v in software_versions().items()),
        origin=_sections(source.card),
    )
    return f"---\n{str(data.to_yaml()).strip()}\n---\n\n{body.rstrip()}\n"


def proof_text(job: Job, proof: Proof) -> str:
    """The measured differences as a Markdown table, and what else was tried."""
    lines = ["| input | dtype | output | largest difference | largest value | own rounding |"]
    lines.append("|---|---|---|---|---|---|")
    for r in proof.rows:
        own = f"{r.rounding:.1e}" if r.dtype != "float32" else ""
        lines.append(f"| {r.trial} | {r.dtype} | {r.output} | {r.difference:.1e} | {r.largest:.2g} | {own} |")
    lines += ["", "Loads without mmssl: yes."]
    if proof.auto:
        lines.append(f"`AutoModel` loads it as `{proof.auto}`.")
    if proof.pipeline_difference is not None:
        lines.append(
            f"`transformers.pipeline` ({proof.pipeline}) gives the model's own numbers to "
            f"{proof.pipeline_difference:.1e}."
        )
    elif job.without_pipeline:
        lines.append(f"No pipeline: {job.without_pipeline}.")
    return "\n".join(lines)


def _sections(card: str) -> str:
    """The sections of the model's own card that hold for the export as well."""
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    found = {title.strip(): text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=False)}
    return "\n\n".join(f"## {title}\n\n{found[title]}" for title in ORDER if title in found)
