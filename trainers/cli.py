"""The commands `train` and `eval`; heavy modules are imported only when a command runs."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from model.config import FLOW_STEPS
from pipelines.contract.errors import UsageError
from pipelines.contract.options import add_command, positive
from pipelines.contract.words import counted

TRAIN_EPILOG = """a worked example, from a mixture to a policy for one task:
  embodimix mix plan mixture.yaml
  embodimix train pretrain mixture.yaml --model tiny --steps 2000 --run runs/pretrain
  embodimix train pretrain mixture.yaml --run runs/pretrain --resume             # after a crash: the same result
  embodimix train posttrain laundry.yaml --init runs/pretrain --run runs/laundry --steps 500
  embodimix train posttrain laundry.yaml --model pi0-lora --weights openpi pi0_base --run runs/adapters --plan
  embodimix eval runs/laundry

Kill it at any moment: --resume continues from the newest checkpoint, on the same samples in the same order.
"""
EVAL_EPILOG = """a worked example:
  embodimix eval runs/pretrain --samples 256 --flow-sweep 1,2,5,20
  embodimix eval runs/laundry --spec other_task.yaml --json
  embodimix eval runs/laundry --compare runs/laundry_from_scratch
"""
WEIGHTS_LAYOUTS = ("openpi", "lerobot", "hf", "big_vision")
METAVARS: dict[type, str] = {int: "N", float: "X", str: "NAME"}
# Flag, setting, type, help. Every other setting: --set NAME=VALUE, or a YAML file with --config.
FLAGS: tuple[tuple[str, str, type, str], ...] = (
    ("--steps", "steps", int, "optimizer steps (1000)"),
    ("--batch-size", "batch_size", int, "samples per step (32)"),
    ("--accumulate", "accumulate", int, "parts that a batch is computed in, one after another, to save memory (1)"),
    ("--seed", "seed", int, "of initial parameters, noise and flow time (0); the stream's is in the mixture"),
    ("--learning-rate", "optimizer.learning_rate", float, "peak (tiny: 1e-3, posttrain 3e-4; pi0: 5e-5, 2.5e-5)"),
    ("--warmup-steps", "optimizer.warmup_steps", int, "linear warm-up (a tenth of the steps, at most 1000)"),
    ("--weight-decay", "optimizer.weight_decay", float, "of AdamW (1e-10)"),
    ("--ema-decay", "optimizer.ema_decay", float, "moving average of the parameters; 0 for none (0.999; tiny 0.99)"),
    ("--schedule", "optimizer.schedule", str, "how the rate falls after the warm-up: cosine (default) or rsqrt"),
    ("--loss", "loss", str, "masked: only real slots and steps (default); openpi: all of them"),
    ("--checkpoint-every", "checkpoints.every", int, "steps between checkpoints (1000)"),
    ("--keep", "checkpoints.keep", int, "newest checkpoints to keep (2)"),
    ("--keep-every", "checkpoints.keep_every", int, "also keep multiples of this step (0: none)"),
    ("--log-every", "log_every", int, "steps between lines of metrics (1)"),
    ("--batches-ahead", "batches_ahead", int, "batches to read ahead (2, more from object stores)"),
    ("--eval-every", "eval_every", int, "steps between measurements on held-out episodes (0: none)"),
    ("--eval-samples", "eval_samples", int, "held-out samples of each group then, at most (64)"),
    ("--peak-tflops", "peak_tflops", float, "a device's peak, for MFU (known for common GPUs and TPUs)"),
    ("--wandb", "wandb", str, "project at Weights & Biases to report to as well; WANDB_MODE=offline keeps it here"),
    ("--dtype", "policy.dtype", str, "float32 or bfloat16 activations; parameters stay float32"),
    ("--remat", "policy.remat", str, "what the backward pass recomputes: none, dots, full"),
)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `train pretrain`, `train posttrain` and `eval` to the parser of `embodimix`."""
    train = add_command(commands, "train", "pretrain on a mixture, or post-train from weights", TRAIN_EPILOG)
    stages = train.add_subparsers(dest="stage", metavar="STAGE", required=True)
    pretrain = add_command(stages, "pretrain", "train a policy from the start", TRAIN_EPILOG)
    pretrain.set_defaults(init=None)
    posttrain = add_command(stages, "posttrain", "continue from weights of a run, or published ones", TRAIN_EPILOG)
    posttrain.add_argument("--init", type=Path, metavar="RUN", help="run directory to start from")
    for stage in (pretrain, posttrain):
        _add_model_arguments(stage)
        _add_train_arguments(stage)
        stage.set_defaults(run=run_train)
    again = add_command(
        stages, "replay", "compute one batch of a run again, to see why its loss was not finite", TRAIN_EPILOG
    )
    again.add_argument("run_directory", type=Path, metavar="RUN", help="run directory")
    again.add_argument("--step", type=int, metavar="N", help="a step of metrics.jsonl (the last that stopped the run)")
    again.add_argument("--json", action="store_true", help="print the report as JSON")
    again.set_defaults(run=run_replay)
    _add_eval(commands)


def run_replay(arguments: argparse.Namespace) -> int:
    """Computes a batch again and prints its worst samples and gradients."""
    from trainers.evaluation import replay

    report = replay.replay(arguments.run_directory, arguments.step)
    print(json.dumps(report.to_json(), indent=1) if arguments.json else replay.render(report))
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Trains, prints where the run is, and returns 0, or 128 + the signal that stopped it."""
    from trainers import hosts
    from trainers.setup import TrainingRequest
    from trainers.train import train

    if arguments.distributed or arguments.coordinator:
        hosts.join(arguments.coordinator, arguments.process_count, arguments.process_index)
    overrides = _overrides(arguments)
    if arguments.stage == "posttrain" and arguments.init is None and not arguments.resume:
        if overrides.get("weights") is None:
            raise UsageError("train posttrain: expected --init RUN or --weights PATH, what to start from")
    if arguments.init is not None and overrides.get("weights") is not None:
        raise UsageError("train posttrain: expected --init or --weights; found both")
    request = TrainingRequest(
        stage=arguments.stage,
        spec=arguments.spec,
        run=arguments.run_directory,
        init=arguments.init,
        overrides=overrides,
        resume=arguments.resume,
        show_progress=not arguments.json and not arguments.quiet,
    )
    if arguments.plan:
        return _print_plan(request, arguments)
    # A setting of this machine, not of the run: `mixtures.stores.shard_cache` reads it in every process.
    for variable, value in (("SHARD_CACHE", arguments.shard_cache), ("SHARD_CACHE_GB", arguments.shard_cache_gb)):
        if value is not None:
            os.environ[f"EMBODIMIX_{variable}"] = str(value)
    try:
        summary = train(request)
    except KeyboardInterrupt:
        arguments.after_interrupt = _what_is_lost(arguments.run_directory)
        raise
    if arguments.json:
        print(json.dumps(vars(summary), default=str))
    elif summary.stopped_by:
        print(f"stopped by signal {summary.stopped_by} after step {summary.step}, saved; continue with --resume")
    else:
        print(f"step {summary.step}, loss {summary.loss:.4f}: {summary.run}")
    return 128 + summary.stopped_by if summary.stopped_by else 0


def _what_is_lost(path: Path) -> str:
    """What a second Ctrl-C costs: the steps since the newest checkpoint, and how to continue."""
    from trainers.checkpoint import newest_saved
    from trainers.metrics import last_logged_step
    from trainers.run import RunDirectory

    run = RunDirectory(path)
    saved, done = newest_saved(run.checkpoints) or 0, last_logged_step(run.metrics_path)
    if not done:
        return "no step was finished; give --resume to start again"
    kept = f"the newest checkpoint is of step {saved}" if saved else "no checkpoint was saved yet"
    return f"{kept}, so --resume repeats {counted(max(done - saved, 0), 'step')} of the {done} that were done"


def _print_plan(request: Any, arguments: argparse.Namespace) -> int:
    from trainers.mesh import build_mesh
    from trainers.planning import plan
    from trainers.prompts import PromptEncoder
    from trainers.run import RunDirectory
    from trainers.setup import set_up

    config, mixture = set_up(RunDirectory(request.run), request)
    build_mesh(config.fsdp, batch_size=config.batch_size, accumulate=config.accumulate)
    try:
        prompts = plan.count_prompts(mixture, PromptEncoder(config))
    except UsageError as error:  # a plan of the memory needs no tokenizer, and training will ask for it
        print(f"WARNING: {error}", file=sys.stderr)
        prompts = None
    made = plan.plan_training(config, mixture, device_tflops=arguments.device_tflops, prompts=prompts)
    print(json.dumps(made.to_json(), indent=1) if arguments.json else plan.render(made))
    return 0


def run_eval(arguments: argparse.Namespace) -> int:
    """Evaluates one run, or two beside each other, and prints the table or JSON."""
    from trainers.evaluation import compare, evaluate

    request = evaluate.EvaluationRequest(
        run=arguments.run_directory,
        spec=arguments.spec,
        samples=arguments.samples,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        flow_steps=arguments.flow_steps,
        plots=not arguments.no_plots,
        flow_sweep=_flow_sweep(arguments.flow_sweep),
    )
    if arguments.compare is not None:
        compared = compare.compare_runs(request, arguments.compare)
        print(json.dumps(compared.to_json(), indent=1) if arguments.json else compare.render(compared))
        return 0
    report = evaluate.evaluate(request).report
    print(json.dumps(report.to_json(), indent=1) if arguments.json else evaluate.render(report))
    return 0


def _flow_sweep(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(number) for number in text.split(","))) if text else ()
    except ValueError:
        raise UsageError(f"--flow-sweep {text}: expected numbers with commas, such as 1,2,5,20") from None


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="tiny, pi0-small, pi0, pi0-lora, ... (tiny, or that of --init)")
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar=("LAYOUT", "PATH"),
        help="published weights to start from: openpi, lerobot or hf, and a path; the path alone is recognised",
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="the model's vocabulary: PaliGemma's SentencePiece file (beside --weights)"
    )


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, metavar="SPEC", help="mixture YAML")
    parser.add_argument("--run", dest="run_directory", type=Path, required=True, metavar="DIR", help="run directory")
    parser.add_argument("--resume", action="store_true", help="resume the run if it exists, else start it")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML; flags override it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting of the run's config.yaml"
    )
    for flag, setting, kind, text in FLAGS:
        parser.add_argument(flag, dest=setting, type=kind, metavar=METAVARS[kind], help=text)
    parser.add_argument(
        "--freeze", action="append", metavar="PATTERN", help="parameters to keep, such as */img/*; !PATTERN: not these"
    )
    parser.add_argument(
        "--augmentation", choices=("none", "openpi"), help="changes of pictures (openpi; tiny models: none)"
    )
    parser.add_argument("--plan", action="store_true", help="print parameters, memory, work and epochs; train nothing")
    parser.add_argument(
        "--device-tflops", type=float, metavar="X", help="TFLOP/s that a device attains, for --plan's hours"
    )
    about = "folder on local disk for copies of shards of object stores, filled in the background"
    parser.add_argument("--shard-cache", metavar="DIR", help=about)
    parser.add_argument("--shard-cache-gb", type=float, metavar="X", help="most gigabytes of these copies (100)")
    parser.add_argument("--fsdp", type=int, metavar="N", help="devices that parameters are split over (1)")
    parser.add_argument("--distributed", action="store_true", help="one of many processes of a cluster's job")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="one of many processes, without a cluster scheduler")
    parser.add_argument("--process-count", type=int, metavar="N", help="number of processes, with --coordinator")
    parser.add_argument("--process-index", type=int, metavar="N", help="this process, with --coordinator")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, no progress bar")


def _add_eval(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(
        commands, "eval", "flow loss and action error on held-out episodes, beside baselines", EVAL_EPILOG
    )
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "--spec", metavar="SPEC", type=Path, help="another mixture whose validation episodes to use (the run's own)"
    )
    parser.add_argument("--compare", type=Path, metavar="RUN", help="another run, on the same samples, with intervals")
    parser.add_argument("--samples", metavar="N", type=positive, default=128, help="samples per group (128)")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32, help="samples at a time (32)")
    parser.add_argument(
        "--flow-steps",
        metavar="N",
        type=positive,
        default=FLOW_STEPS,
        help="Euler steps from noise to action (%(default)s)",
    )
    parser.add_argument("--flow-sweep", metavar="N,N,...", help="also the error with other numbers of steps: 1,2,5,20")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of noise and flow time (0)")
    parser.add_argument("--no-plots", action="store_true", help="numbers only")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run_eval)


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings by dotted name: the YAML file, then --set, then the flags."""
    from trainers.config import augmentation_settings, read_overrides

    overrides = augmentation_settings(arguments.augmentation) if arguments.augmentation else {}
    overrides |= read_overrides(arguments.config) if arguments.config else {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: expected NAME=VALUE, such as optimizer.b2=0.99")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {text}: expected a YAML value; found {value!r}") from None
    given = {setting: getattr(arguments, setting) for _, setting, _, _ in FLAGS}
    given |= {name: getattr(arguments, name) for name in ("model", "tokenizer", "freeze", "fsdp")}
    given |= _weights(arguments.weights)
    return overrides | {name: value for name, value in given.items() if value is not None}


def _weights(values: list[str] | None) -> dict[str, str]:
    """The settings that `--weights PATH` or `--weights LAYOUT PATH` stand for."""
    if values is None:
        return {}
    if len(values) > 2 or (len(values) == 2 and values[0] not in WEIGHTS_LAYOUTS):
        raise UsageError(
            f"--weights {' '.join(values)}: expected a path, or one of {', '.join(WEIGHTS_LAYOUTS)} and a path; "
            "give the mixture's YAML before it"
        )
    return {"weights": values[-1]} | ({"weights_layout": values[0]} if len(values) == 2 else {})
