"""Loads exported folders in a process that cannot import mmssl, and says what they compute.

Run as a script by `mmssl.exporting.proof`, never imported: `python -I fresh.py JOBS.json`. For each job it loads the
folder in each dtype, runs the trials, writes their outputs to safetensors, and tries the pipeline. What fails is
reported in the result of that job, by the error's own words.
"""

import importlib.abc
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


class Blocked(importlib.abc.MetaPathFinder):
    """Makes mmssl unimportable even where it is installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse mmssl's own packages; None leaves all others to the finders behind."""
        if name.partition(".")[0].startswith("mmssl"):
            raise ModuleNotFoundError(f"No module named '{name}' (blocked: this process must do without)")


sys.meta_path.insert(0, Blocked())

from typing import Any  # noqa: E402

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


def load_transformers(job: Any, dtype: torch.dtype, **fields: object) -> torch.nn.Module:
    """A stock class from its folder. RuntimeError where weights are missing, left over or of another shape."""
    import transformers

    cls = getattr(transformers, job["class"])
    model, info = cls.from_pretrained(job["folder"], dtype=dtype, output_loading_info=True, **fields)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            raise RuntimeError(f"{key}: {sorted(map(str, info[key]))[:3]}")
    return model.eval()


def load_timm(job: Any, dtype: torch.dtype) -> torch.nn.Module:
    """A timm model from its folder."""
    import timm

    return timm.create_model(f"local-dir:{job['folder']}", pretrained=True).to(dtype).eval()


def load_open_clip(job: Any, dtype: torch.dtype) -> torch.nn.Module:
    """An open_clip model from its folder."""
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{job['folder']}")
    return model.to(dtype).eval()


def load_onnx(job: Any, dtype: torch.dtype, file: str = "") -> Callable[..., dict[str, torch.Tensor]]:
    """A session of onnxruntime, as a function of named tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(Path(job["folder"]) / (file or job["file"])))

    def run(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        names = [o.name for o in session.get_outputs()]
        values = session.run(names, {k: v.numpy() for k, v in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def load_sentence_transformers(job: Any, dtype: torch.dtype) -> torch.nn.Module:
    """A sentence-transformers model from its folder."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(job["folder"], device="cpu", local_files_only=True).to(dtype).eval()


def adapted(model: Any, job: Any) -> Any:
    """The model, with the adapter of the job, if any."""
    if not job["adapter"]:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, job["adapter"]).eval()


def output_of(result: Any, path: str) -> Any:
    """A tensor at a dotted path of an output: attributes, keys and numbers."""
    for step in path.split(".") if path else ():
        if step.isdigit():
            result = result[int(step)]
        else:
            result = result[step] if isinstance(result, dict) and step in result else getattr(result, step)
    return result


def run_trial(model: object, trial: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Outputs of a model for the inputs of one trial, in float32, by the names that the trial gives them."""
    inputs = load_file(trial["inputs"]) if trial["inputs"] else {}
    exact = trial["exact_inputs"]
    inputs = {k: v.to(dtype) if v.is_floating_point() and k not in exact else v for k, v in inputs.items()}
    call = output_of(model, trial["method"])
    with torch.no_grad():
        result = call(
            *trial["arguments"],
            *([inputs[k] for k in inputs] if trial["positional"] else []),
            **({} if trial["positional"] else inputs),
            **trial["kwargs"],
        )
    found = {name: output_of(result, path) for name, path in trial["outputs"].items()}
    return {name: torch.as_tensor(value).float().contiguous().clone() for name, value in found.items()}


def run_pipeline(spec: Any, folder: str) -> Any:
    """What a pipeline of transformers says of the example."""
    from transformers import pipeline

    result = pipeline(spec["task"], model=folder, **spec.get("options", {}))(spec["input"], **spec.get("kwargs", {}))
    if spec["task"] == "zero-shot-image-classification":
        return {row["label"]: row["score"] for row in result}
    return result


def run_job(job: Any) -> dict[str, Any]:
    """Everything about one folder; errors are part of the result."""
    out: dict[str, Any] = {"error": None, "pipeline": None, "pipeline_error": None, "auto": None}
    try:
        for name in job["dtypes"]:
            dtype = getattr(torch, name)
            load = globals()[f"load_{job['library']}"]
            model = adapted(load(job, dtype), job)
            for trial in job["trials"]:
                if name in trial["dtypes"]:
                    used = adapted(load(job, dtype, **trial["load"]), job) if trial["load"] else model
                    save_file(run_trial(used, trial, dtype), f"{trial['file']}.{name}.safetensors")
        if job["library"] == "transformers" and job["auto"]:
            from transformers import AutoModel

            out["auto"] = type(AutoModel.from_pretrained(job["folder"])).__name__
    except Exception as error:
        traceback.print_exc()
        out["error"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        return out
    for spec in job["pipelines"]:
        try:
            out["pipeline"] = out["pipeline"] or []
            out["pipeline"].append(run_pipeline(spec, job["folder"]))
        except Exception as error:
            traceback.print_exc()
            out["pipeline_error"] = f"{spec['task']}: {type(error).__name__}: {str(error).strip()[:300]}"
    return out


def main() -> None:
    """Run the jobs of the file that the command line names, and write their results beside it."""
    path = Path(sys.argv[1])
    results = [run_job(job) for job in json.loads(path.read_text())]
    loaded = sorted(name for name in sys.modules if name.partition(".")[0].startswith("mmssl"))
    path.with_suffix(".results.json").write_text(json.dumps({"results": results, "mmssl": loaded}))


if __name__ == "__main__":
    main()
