"""The sections of a recipe and of a command that say how is trained: the loop, and what is looked at on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import SET, Needs, needs, option, strict
from ..schedules import RampConfig, ScheduleConfig

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "lars": "LARS", "lion": "Lion", "muon": "Muon (AdamW outside of blocks)"}
"""Name -> as cards write it."""
EIGHT_BIT = "adamw_8bit"
OPTIMIZERS[EIGHT_BIT] = "AdamW with a state of 8 bits"


@strict
@dataclass(kw_only=True)
class GuardConfig:
    """When a run has gone wrong, and what is done then. A threshold that is null is not looked at.

    Ranks, spreads and their names: see `mmssl.training.health`. A loss that is not finite ends the run with `warn` and
    `stop`, and counts as any other fault with `rollback`.
    """

    action: str = option("warn", choices=("warn", "stop", "rollback"), help="rollback: to the last healthy checkpoint")
    min_rank: float | None = option(
        1.1, min=0, max=1_000_000, help="least RankMe of any modality; 1: all embeddings on one line"
    )
    min_std: float | None = option(
        0.021, min=0, max=1_000, help="least std_mean of any modality; 0: all embeddings are one"
    )
    min_codes: float | None = option(
        0.05, min=0, max=1, help="least use of any codebook, its perplexity over its size; 0: one code says all"
    )
    drop_share: float | None = option(None, above=0, below=1, help="largest fall of a RankMe below its best so far")
    spike: float | None = option(
        None, above=0, max=1_000, help="largest rise of the loss over its median, in deviations of it"
    )
    patience: int = option(
        2, min=1, max=1_000_000_000, help="bad checks in a row before something is done; loss: at once"
    )
    lr_factor: float = option(0.5, above=0, max=1, help="of the learning rate, at each rollback")
    rollbacks: int = option(3, min=1, max=1_000_000_000, help="at most; then the run stops")

    NEEDS = (needs("lr_factor", "rollbacks", action="rollback"),)


@strict
@dataclass(kw_only=True)
class LoopConfig:
    """The loop, as every command that trains goes through it."""

    steps: int | None = option(None, min=1, max=1_000_000_000, resumable=True, help="optimiser steps")
    epochs: float | None = option(None, above=0, max=1_000_000, resumable=True, help="passes over the data")
    batch_size: int = option(256, min=1, max=1_000_000, help="samples of one optimiser step, over all processes")
    accumulation: int = option(
        1,
        min=1,
        max=1_000_000,
        resumable=True,
        help="parts that a step goes through the model in: less memory, the same numbers",
    )
    micro_batch: int | Literal["auto"] | None = option(
        None,
        min=1,
        max=1_000_000,
        resumable=True,
        help="in place of accumulation: so many samples at most go through the model at once in each process; auto: as "
        "many as fit a GPU's memory, found by trying before the first step; the same numbers",
    )
    lr: float = option(1e-3, above=0, max=1_000, help="peak learning rate, after the warm-up")
    min_lr: float = option(0.0, min=0, max=1_000, help="where the learning rate ends that falls to the end")
    warmup: float = option(0.05, min=0, max=1_000_000_000, help="below 1: share of all steps; else: steps")
    schedule: ScheduleConfig = option(factory=ScheduleConfig, help="how the learning rate goes behind the warm-up")
    anneal: float | None = option(
        None,
        above=0,
        max=1_000_000_000,
        resumable=True,
        help="of schedules that hold the rate: in how many last steps it falls to min_lr (below 1: share of all); the "
        "checkpoint before them stays, to go on from; null: of wsd 0.1, else none",
    )
    optimizer: str = option(
        "adamw",
        choices=tuple(OPTIMIZERS),
        help="by which rule the weights follow their gradients; adamw_8bit: adamw whose state takes a quarter of the "
        "memory (extra bitsandbytes)",
    )
    weight_decay: float = option(
        0.05,
        min=0,
        max=1_000,
        help="of matrices only, not of biases, norms and tokens; sgd and lars add it to the gradient, the others "
        "shrink the weights by it",
    )
    decay_ramp: RampConfig | None = option(None, help="lets weight decay grow or shrink over the run; null: it stays")
    momentum: float | None = option(
        None, min=0, below=1, help="of sgd, lars and muon: share of the step before; null: 0.9, of muon 0.95"
    )
    nesterov: bool = option(False, help="of sgd and lars: look ahead by the momentum (muon always does)")
    trust: float = option(
        1e-3, above=0, max=1_000, help="of lars: length of a step of a matrix, relative to its own, at a rate of 1"
    )
    betas: list[float] | None = option(
        None,
        min=0,
        below=1,
        help="of adamw (of 8 bits, too), and of what muon leaves to it: decay of the mean and of the square of the "
        "gradient; of lion: "
        "of what its step, and what its memory is made of; null: [0.9, 0.95], of lion [0.9, 0.99]",
    )
    eps: float = option(1e-8, above=0, max=1, help="of adamw and muon: added to the root of the square")
    clip: float | None = option(1.0, above=0, max=1_000_000_000, help="largest norm of the gradient; null: not clipped")
    mixed_precision: str = option(
        "auto",
        choices=("auto", "no", "bf16", "fp16"),
        help="of the forward pass, weights stay float32; auto: bf16 on a GPU that has it, else no",
    )
    log_every: int = option(
        10, min=1, max=1_000_000_000, resumable=True, local=True, help="steps between two lines of metrics.jsonl"
    )
    save_every: int | None = option(
        None,
        min=1,
        max=1_000_000_000,
        resumable=True,
        local=True,
        help="steps between checkpoints, besides train.save_minutes",
    )
    save_minutes: float | None = option(
        15.0,
        above=0,
        max=100_000,
        resumable=True,
        local=True,
        help="minutes between checkpoints, written at the next line of the log; null: none by the clock",
    )
    save_async: bool = option(
        False,
        resumable=True,
        local=True,
        help="write checkpoints while the training goes on, out of a copy in the processor's memory (once more the "
        "weights and the optimiser's state); the last one, and one of an interrupted run, is waited for",
    )
    time_limit: float | None = option(
        None,
        above=0,
        max=1_000_000,
        resumable=True,
        local=True,
        help="minutes after which the run writes a checkpoint and ends with exit code 75, to be started again with "
        "--resume auto",
    )
    keep: int = option(2, min=1, max=1_000_000_000, resumable=True, local=True, help="how many checkpoints stay")
    memory: float = option(
        1.0,
        min=0,
        max=1_000_000,
        resumable=True,
        local=True,
        help="GB of decoded samples that each process keeps instead of decoding them in every epoch; the same numbers",
    )
    trackers: list[str] | None = option(
        None, resumable=True, local=True, help="Accelerate's trackers; null: tensorboard where it is installed"
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("decay_ramp", weight_decay=SET),
        needs("momentum", optimizer=("sgd", "lars", "muon")),
        needs("nesterov", optimizer=("sgd", "lars")),
        needs("nesterov", holds=lambda config: config.momentum != 0, momentum="above 0"),
        needs("trust", optimizer="lars"),
        needs("betas", optimizer=("adamw", EIGHT_BIT, "lion", "muon")),
        needs("eps", optimizer=("adamw", EIGHT_BIT, "muon")),
    )


@strict
@dataclass(kw_only=True)
class TrainConfig(LoopConfig):
    """The loop of pretraining, and what is looked at on the way. Exactly one of `steps` and `epochs` is given."""

    after: str | None = option(
        None,
        local=True,
        help="folder of a run that this one goes on from on other data: with its weights, objectives and optimiser's "
        "state, from before its annealing; a schedule that knows no end goes on where it was, another begins anew",
    )
    parallel: str | None = option(
        None,
        choices=("ddp", "fsdp2"),
        resumable=True,
        local=True,
        help="how several processes train: each holds everything (ddp), or a share of all weights, gradients, teachers "
        "and of the optimiser's state (fsdp2); null: as the launcher says (accelerate launch --use_fsdp), else ddp",
    )
    keep_best: str | None = option(
        None,
        resumable=True,
        help="loss, loss/PART, probe/MODALITY/TASK or health/... of metrics.jsonl: the checkpoint that it was best at "
        "(losses least, all else most) stays besides the last ones",
    )
    keep_best_model: bool = option(False, resumable=True, help="the model gets that checkpoint's weights at the end")
    gradient_checkpointing: bool | Literal["selective"] = option(
        False,
        resumable=True,
        help="compute activations again in the backward pass: less memory, more time; selective: all but products and "
        "attention, which take the time",
    )
    compile: bool | Literal["auto"] = option(
        "auto",
        resumable=True,
        help="torch.compile every trunk; auto: on a GPU, where Triton and a C compiler are there and train.parallel is "
        "not fsdp2",
    )
    store_frozen: bool = option(
        True,
        resumable=True,
        help="outputs of frozen towers whose inputs do not change are computed once, and kept in the run's `stored`",
    )
    gradient_share_every: int | None = option(
        None, min=1, max=1_000_000_000, resumable=True, help="steps between measurements of who pulls the encoders"
    )
    health_every: int | None = option(
        100, min=1, max=1_000_000_000, resumable=True, help="steps between measurements of the embeddings; null: never"
    )
    health_samples: int = option(
        256, min=2, max=1_000_000_000, resumable=True, help="training samples that health is measured on"
    )
    guard: GuardConfig | None = option(
        factory=GuardConfig, resumable=True, help="what is done about a collapse; null: nothing"
    )
    report: bool | Literal["auto"] = option(
        "auto",
        resumable=True,
        local=True,
        help="write report.html at the end: curves, scores, what the model sees; auto: where matplotlib is installed",
    )
    card_samples: bool = option(
        False,
        resumable=True,
        local=True,
        help="the model's card, which `mmssl push` publishes, shows samples of the data and names of their classes",
    )
    report_every: int | None = option(
        None,
        min=1,
        max=1_000_000_000,
        resumable=True,
        local=True,
        help="steps between pictures while it trains: report.html is brought up to date, and reconstructions, patches "
        "and the map go to tensorboard, trackio and wandb; the training stays the same",
    )
    report_minutes: float | None = option(
        None,
        above=0,
        max=100_000,
        resumable=True,
        local=True,
        help="minutes between them, at the next line of the log; null: none by the clock",
    )
    probe_every: int | None = option(
        None, min=1, max=1_000_000_000, resumable=True, help="steps between probes on labelled rows (evaluation.label)"
    )
    probe_tasks: list[str] = option(
        factory=lambda: ["knn"], resumable=True, choices=("knn", "linear"), help="which probes"
    )
    probe_samples: int = option(
        1000, min=2, max=1_000_000_000, resumable=True, help="labelled rows the probe learns from; half as many test it"
    )

    NEEDS = (
        needs("health_samples", health_every=SET),
        needs("probe_tasks", "probe_samples", probe_every=SET),
        needs("report_every", "report_minutes", report=("auto", True)),
        needs("keep_best_model", keep_best=SET),
    )
