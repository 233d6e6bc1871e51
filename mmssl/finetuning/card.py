"""The card of a fine-tuned model or an adapter: what it is, how it was trained, how good it is beside its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.table import markdown_table
from ..hub.card import hub_dataset, software_versions
from ..models.adapter_files import called
from ..models.foreign import public_origin
from ..models.privacy import public, public_path
from ..recipe.config import OPTIMIZERS

if TYPE_CHECKING:
    from ..evaluation.evaluate import Report
    from ..models.adapter_files import Base
    from .jobs import Job


def write_card(folder: Path, job: Job, base: Base | None, report: Report) -> None:
    """`README.md` of the model folder. OSError when it cannot be written."""
    from ..options.plainyaml import dump
    from ..options.schema import to_dict

    adapter, data = base is not None, str(job.options.path)
    modalities = " and ".join(job.rows.columns)
    name = public_origin(called(base.name)) if base is not None and base.name else None
    what = f"A {job.options.peft} adapter" if adapter else "A model"
    body = [
        f"# {job.title}",
        f"{what} for {job.title}, on {modalities}" + (f"; base model: `{name}`." if name else "."),
        "## Use",
        "```python\n" + _usage(job, base) + "\n```",
        "## Training",
        "\n".join(_facts(job, report, data)),
        "## Scores",
        f"On {report['n_test']:,} test rows ({report['split']['test']}). `linear probe` is a linear model on the "
        "frozen encoder this started from, on its untrained twin and on the raw features, fitted on all labelled rows "
        "(also those to stop by), as `mmssl evaluate --task linear` does. Brackets hold 95 % intervals.",
        markdown_table(report),
        "## Limits",
        "It knows only what its training data shows, with that data's gaps and biases; check it on your own data.",
        "## Options",
        "```yaml\n" + dump(public(to_dict(job.options))).rstrip() + "\n```",
    ]
    published = hub_dataset(base.name) if base is not None and base.name else None
    text = f"---\n{_metadata(job, published, report, data, adapter)}\n---\n\n" + "\n\n".join(body) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _usage(job: Job, base: Base | None) -> str:
    call = ", ".join(f"{name}=[...]" for name in job.rows.columns)
    lines = ["import mmssl  # which teaches transformers and PEFT its classes", ""]
    if job.rows.target is not None:
        lines += ['task = mmssl.load_task("PATH")  # this folder', f"task.predict({call})"]
    if base is not None and base.plain:
        lines += [
            "",
            "from peft import PeftModel",
            "from transformers import AutoModel",
            'model = PeftModel.from_pretrained(AutoModel.from_pretrained("BASE"), "PATH")  # the encoder alone',
        ]
    return "\n".join(lines)


def _facts(job: Job, report: Report, data: str) -> list[str]:
    settings, parameters = report["settings"], report["parameters"]
    size = sum(parameters["bytes"].values()) / 1e6
    train, n = job.options.train, report["n_validation"]
    taken = f" of {report['pool']:,}" if report["pool"] != report["n_train"] + report["n_validation"] else ""
    return [
        f"- Data: `{public_path(data)}`, split `{report['split']['train']}`; {report['n_train']:,} training rows"
        + (f", {len(job.rows.folds)} folds of them to choose by" if job.rows.folds else f" and {n:,} to stop by")
        + taken,
        f"- Trained: {parameters['trained']:,} of {parameters['all']:,} parameters ({settings['peft']}); "
        f"files {size:.2f} MB",
        f"- Length: {settings['steps']} steps of {train.batch_size}, {settings['seconds']} s; the best weights are "
        f"those of step {settings['best_step']}",
        f"- Optimiser: {OPTIMIZERS[train.optimizer]}, peak learning rate {train.lr:g}, weight decay "
        f"{train.weight_decay:g}; seed {settings['seed']}",
        "- Software: " + ", ".join(f"{n} {v}" for n, v in software_versions().items()),
    ]


def _metadata(job: Job, base: str | None, report: Report, data: str, adapter: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    source = public_path(data)
    results = [
        EvalResult(
            task_type=job.title.split()[0],
            dataset_type=source,
            dataset_name=source,
            dataset_split=report["split"]["test"],
            metric_type=metric.rsplit("/", 1)[-1],
            metric_name=metric,
            metric_value=round(float(values["finetuned"]), 4),
        )
        for metric, values in report["tasks"].get("fine-tuned", {}).items()
        if values.get("finetuned") is not None
    ]
    dataset = hub_dataset(data)
    card = ModelCardData(
        library_name="peft" if adapter else "mmssl",
        tags=["mmssl", *([job.options.peft] if adapter else []), *job.rows.columns],
        base_model=base,
        datasets=[dataset] if dataset else None,
        model_name=job.title,
        eval_results=results or None,
    )
    return str(card.to_yaml()).strip()
