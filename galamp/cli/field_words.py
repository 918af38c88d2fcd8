"""Words of other tools: what people type who come from them, and what it is called in galamp.

    --lr, train --FLAGS, COMMANDS--> one line that names galamp's own word; nothing is translated

Flags are those of CleanRL, Stable-Baselines3 and its zoo, Sample Factory and PufferLib.
"""

from __future__ import annotations

from collections.abc import Container

FLAGS = {
    "--lr": "--learning-rate",
    "--total-timesteps": "--total-steps",
    "--num-timesteps": "--total-steps",
    "--n-timesteps": "--total-steps",
    "--num-env-steps": "--total-steps",
    "--train-for-env-steps": "--total-steps",
    "--train-for-seconds": "--max-time",
    "--max-seconds": "--max-time",
    "--target-score": "--stop-score",
    "--target-reward": "--stop-score",
    "--eval-freq": "--eval-every",
    "--n-envs": "--num-envs",
    "--num-envs-per-worker": "--num-envs",
    "--env": "--env-id, or --game for Atari",
    "--env-name": "--env-id, or --game for Atari",
    "--n-steps": "--num-steps",
    "--rollout": "--num-steps",
    "--discount": "--gamma",
    "--discount-factor": "--gamma",
    "--entropy-coef": "--ent-coef",
    "--exploration-loss-coeff": "--ent-coef",
    "--value-loss-coef": "--vf-coef",
    "--value-loss-coeff": "--vf-coef",
    "--clip-range": "--clip-coef",
    "--n-epochs": "--update-epochs",
    "--num-epochs": "--update-epochs",
    "--lr-decay": "--lr-schedule linear",
    "--use-linear-lr-decay": "--lr-schedule linear",
    "--learning-rate-schedule": "--lr-schedule",
    "--num-workers": "--learners, and --simulator-workers for each of them",
    "--num-learners": "--learners",
    "--num-peers": "--topology",
    "--torch-deterministic": "--sync, which is repeatable to the last bit on a CPU",
    "--cuda": "--device cuda",
    "--no-cuda": "--device cpu",
    "--exp-name": "--name",
    "--experiment": "--name",
    "--log-dir": "--run-dir",
    "--save-dir": "--run-dir",
    "--train-dir": "--run-dir",
    "--log-folder": "--run-dir",
    "--tensorboard-log": "--tensorboard",
    "--wandb": "--track",
    "--with-wandb": "--track",
    "--capture-video": "galamp record RUN, afterwards",
    "--save-video": "galamp record RUN, afterwards",
    "--render": "galamp play RUN, afterwards",
    "--render-mode": "galamp play RUN, afterwards",
    "--save-freq": "--checkpoint-every-s",
    "--save-interval": "--checkpoint-every-s",
    "--save-model": "nothing: checkpoints are always saved",
    "--trained-agent": "--resume RUN",
    "--load-model-path": "--resume RUN",
    "--restart-behavior": "--resume RUN",
    "--hyperparams": "flags, or --config FILE",
    "--conf-file": "--config FILE",
    "--config-file": "--config FILE",
    "--verbose": "nothing: the run is shown unless --quiet",
    "--num-envs-per-learner": "--num-envs",
}
"""Flag elsewhere -> what to use here."""

COMMANDS = {
    "train": "galamp run",
    "learn": "galamp run",
    "enjoy": "galamp play RUN|galamp eval RUN",
    "watch": "galamp attach RUN",
    "evaluate": "galamp eval RUN",
    "test": "galamp eval RUN",
    "benchmark": "galamp compare RUN...",
    "resume": "galamp run --resume RUN",
    "stop": "Ctrl-C in the terminal of the run, which saves",
    "list": "galamp ls",
    "status": "galamp ls",
    "info": "galamp show RUN",
    "delete": "galamp prune",
    "envs": "galamp games",
    "optimize": "galamp sweep FILE",
    "tune": "galamp sweep FILE",
    "plot-train": "galamp plot RUN",
    "all-plots": "galamp compare RUN...",
    "record-video": "galamp record RUN",
    "tensorboard": "galamp export-logs RUN --tensorboard",
    "version": "galamp --version",
}
"""Command elsewhere -> what to use here; of several, `|` between them, the first that there is."""

PLAIN = ("Ctrl-C", "flags,", "nothing:", "--version")
"""First words of answers that name no command and no setting."""


def flags_elsewhere(known: Container[str]) -> dict[str, str]:
    """Return flag -> answer, of flags that are not `known` here and lead to what is.

    `known` has flags and commands.
    """
    return {
        flag: answer_to(flag, use)
        for flag, use in FLAGS.items()
        if flag not in known and _leads_to(use, known)
    }


def command_elsewhere(word: str, known: Container[str]) -> str:
    """Return the answer to the name of a command of other tools; empty if there is none."""
    uses = COMMANDS.get(word.replace("_", "-"), "").split("|")
    return next((answer_to(word, use) for use in uses if use and _leads_to(use, known)), "")


def answer_to(word: str, use: str) -> str:
    """Return the line for a word that is another tool's."""
    return f"{word} is not in galamp; use {use}"


def _leads_to(use: str, known: Container[str]) -> bool:
    first = use.removeprefix("galamp ").split()[0]
    return first in PLAIN or first.rstrip(",") in known
