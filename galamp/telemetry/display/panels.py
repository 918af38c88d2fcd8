"""The parts of the dashboard: each turns a snapshot into lines of coloured text.

Runs in the supervisor's process. A `Snapshot` goes in, lists of `rich` text at most `width` cells
wide come out, pure functions; `render` arranges them on a screen. Text from outside (names, paths,
events) passes through `clean` and is never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display import quantities
from galamp.telemetry.display import text as words
from galamp.telemetry.display.text import clip, count, fit, measure, score
from galamp.telemetry.snapshot import (
    EPISODES_IN_MEAN,
    LEARNER_PHASES,
    ConsensusReading,
    LearnerSnapshot,
    Snapshot,
    WorkerState,
)

LABEL_WIDTH = 9
NARROW = 60
"""Columns below which only the most important is shown."""

STATUS_STYLES = {"running": "green", "finished": "bold green", "failed": "bold red"}
PHASES = {
    "collect": ("█", "blue"),
    "infer": ("▓", "cyan"),
    "update": ("▒", "green"),
    "gossip": ("░", "magenta"),
    "other": ("·", "bright_black"),
}
"""Character and colour of each phase: the bars can be read without colours too."""

WARNINGS = (
    "restart",
    "given-up",
    "rollback",
    "failure",
    "folder",
    "sink",
    "signal",
    "notice",
    "node",
)
"""Kinds of events that a small screen shows the newest of."""


def labelled(label: str, lines: Sequence[str]) -> list[Text]:
    """Return `lines` with a dim label before the first one, the others indented."""
    labels = [label, *[""] * (len(lines) - 1)]
    return [
        Text(name.ljust(LABEL_WIDTH), "dim").append(line, "default")
        for name, line in zip(labels, lines, strict=True)
    ]


def titled(title: str, width: int) -> list[Text]:
    """Return a title on a thin rule, as one line."""
    return [Text(f"{title} ", "bold").append("─" * (width - len(title) - 1), "bright_black")]


def headline(snapshot: Snapshot, width: int) -> Text:
    """Return environment and protocol at the left, status and time of all attempts at the right."""
    attempt = f" (start {snapshot.attempt})" if snapshot.attempt > 1 else ""
    right = f"{clean(snapshot.status)}   {words.duration(snapshot.total_s)}{attempt}"
    if width < NARROW:
        right = f"{clean(snapshot.status)} {words.duration(snapshot.total_s)}"
    line = Text("galamp".ljust(LABEL_WIDTH), "bold")
    line.append(clip(clean(snapshot.env_id), width - LABEL_WIDTH - len(right) - 3), "bold cyan")
    room = width - line.cell_len - len(right) - 6
    if room >= 8:
        line.append(f"   {clip(clean(snapshot.protocol), room)}", "dim")
    line.append(" " * max(1, width - line.cell_len - len(right)))
    return line.append(right, STATUS_STYLES.get(snapshot.status, "yellow"))


def run_dir(snapshot: Snapshot, width: int) -> list[Text]:
    """Return the run folder."""
    return labelled("run", [words.clip_path(clean(snapshot.run_dir), width - LABEL_WIDTH)])


def progress(snapshot: Snapshot, width: int) -> Text:
    """Return the progress bar, and the time that the rest takes."""
    share, facts = _progress(snapshot, width < NARROW)
    text = fit(facts, max(1, width - 12)).ljust(52 if width >= 80 else 0)  # a bar that stays put
    room = max(0, width - len(text) - 2)
    full = min(room, int(room * share))
    line = Text("━" * full, "cyan").append("─" * (room - full), "bright_black")
    return line.append(f"  {text}", "default")


def _progress(snapshot: Snapshot, narrow: bool) -> tuple[float, list[str]]:
    """Return the share that is done, and the progress in words, the time left early if `narrow`."""
    done, total, goal = snapshot.agent_steps, snapshot.total_steps, snapshot.goal
    left = snapshot.remaining_s
    if goal is not None:
        share, left = min(1.0, max(0.0, goal.share)), goal.remaining_s
        facts = [f"{words.percent(share, 1):>6}", clean(goal.text)]
    else:
        share = min(1.0, done / total) if total > 0 else 0.0
        facts = [
            f"{words.percent(done, total):>6}",
            f"{count(done):>5} of {count(total)} agent steps",
        ]
    if snapshot.status in ("starting", "running", "checkpointing"):
        facts.insert(1 if narrow else len(facts), f"left {words.duration(left)}")
    return share, facts


def speed(snapshot: Snapshot) -> list[str]:
    """Return the throughput in agent steps and, where there are any, in emulator frames."""
    facts = [f"{count(snapshot.agent_steps_per_s):>5} agent steps/s"]
    if snapshot.frames_per_step > 1:
        frames = snapshot.agent_steps_per_s * snapshot.frames_per_step
        facts.append(f"{count(frames):>5} emulator frames/s")
    if snapshot.restarts:
        facts.append(f"{snapshot.restarts} restart{'s' if snapshot.restarts > 1 else ''}")
    return facts


def scores(snapshot: Snapshot) -> list[str]:
    """Return the scores; the last item is omitted first where space is short."""
    if not snapshot.episodes:
        return ["no episode finished yet"]
    many = snapshot.episodes >= EPISODES_IN_MEAN
    of = f"{EPISODES_IN_MEAN} episodes" if many else f"{snapshot.episodes} so far"
    return [
        f"{score(snapshot.mean_return):>6} mean of {of}",
        f"best {_best(snapshot):>6}",
        f"length {_length(snapshot)}",
        f"{count(snapshot.episodes)} episode{'s' if snapshot.episodes > 1 else ''}",
    ]


def evaluation(snapshot: Snapshot, width: int) -> list[Text]:
    """Return a line with the newest evaluation; none before the first one."""
    seen = snapshot.evaluation
    if seen is None:
        return []
    error = "" if seen.standard_error is None else f" ± {score(seen.standard_error)}"
    facts = [
        f"score {score(seen.mean)}{error}",
        f"of {count(seen.episodes)} game{'s' if seen.episodes > 1 else ''}",
        f"at {count(seen.agent_steps)} agent steps",
        f"best {score(seen.best)} at {count(seen.best_at)}",
    ]
    return labelled("eval", [fit(facts, width - LABEL_WIDTH)])


def _best(snapshot: Snapshot) -> str:
    """Return the best mean score; there is none before there are episodes enough.

    The files of a run that has not ended do not have it.
    """
    if snapshot.best_mean_return is None:
        many = snapshot.episodes >= EPISODES_IN_MEAN
        return words.UNKNOWN if many else f"after {EPISODES_IN_MEAN}"
    return score(snapshot.best_mean_return)


def losses(snapshot: Snapshot) -> list[str]:
    """Return each loss with a short name and its value."""
    short = {"grad_norm": "grad", "explained_variance": "explained"}
    return [
        f"{clean(short.get(name, name.removesuffix('_loss')))} {loss(name, value, 2)}"
        for name, value in snapshot.losses.items()
    ] or ["no update yet"]


def loss(name: str, value: float, digits: int = 3) -> str:
    """Return a loss; an explained variance far below 0 says no more than that it is."""
    if name == "explained_variance" and value < -1:
        return "<-1"
    return measure(value, digits)


def numbers(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    """Return speed, score and losses, one per line, values at the right; at most `rows` lines."""
    rate = snapshot.agent_steps_per_s
    pairs = [
        ("agent steps/s", count(rate)),
        ("emulator frames/s", count(rate * snapshot.frames_per_step)),
        ("mean score", score(snapshot.mean_return)),
        ("best mean score", _best(snapshot)),
        ("mean length", _length(snapshot)),
        ("episodes", count(snapshot.episodes)),
        ("restarts", count(snapshot.restarts)),
    ]
    if snapshot.frames_per_step <= 1:
        del pairs[1]
    if (seen := snapshot.evaluation) is not None:
        pairs.append((f"eval score at {count(seen.agent_steps)}", score(seen.mean)))
        pairs.append((f"best eval score at {count(seen.best_at)}", score(seen.best)))
    found = [(_title(name, snapshot), loss(name, value)) for name, value in snapshot.losses.items()]
    blank = [("", "")] if found and len(pairs) + len(found) < rows else []
    return [pair(*each, width) for each in (pairs + blank + found)[:rows]]


def _title(name: str, snapshot: Snapshot) -> str:
    if name == "grad_norm" and snapshot.max_grad_norm:
        return f"grad norm (clipped to {snapshot.max_grad_norm:g})"
    return clean(name.replace("_", " "))


def pair(name: str, value: str, width: int) -> Text:
    """Return a name at the left and a value at the right."""
    return Text(name, "dim").append(value.rjust(width - len(name)), "default")


def _length(snapshot: Snapshot) -> str:
    if snapshot.mean_length is None:
        return words.UNKNOWN
    return f"{count(snapshot.mean_length):>5} agent steps"


def machine(snapshot: Snapshot) -> list[str]:
    """Return what the run takes of the machine: processors, memory, GPUs, power."""
    seen = snapshot.system
    if seen.run_share is None:
        return ["not sampled yet"]
    cores = len(seen.cores)
    facts = [f"CPU {100 * cores * seen.run_share:4.0f} % of {cores} core{'s' if cores > 1 else ''}"]
    if seen.others_share is not None:
        facts.append(f"others {100 * cores * seen.others_share:4.0f} %")
    if seen.memory_bytes is not None and seen.free_bytes is not None:
        both = seen.memory_bytes + seen.free_bytes
        facts.append(f"RAM {gib(seen.memory_bytes)} of {gib(both)} GiB")
    return facts + gpus(snapshot)


def gpus(snapshot: Snapshot) -> list[str]:
    """Return the use of all GPUs together in a few words; nothing where none is in use."""
    seen = snapshot.system
    rates = [gpu.utilisation for gpu in seen.gpus if gpu.utilisation is not None]
    facts = []
    if rates:
        many = f"{len(rates)} GPUs" if len(rates) > 1 else "GPU"
        facts.append(f"{many} {100 * sum(rates) / len(rates):3.0f} %")
    used = [gpu.memory_bytes for gpu in seen.gpus if gpu.memory_bytes is not None]
    if used:
        facts.append(f"{gib(sum(used))} GiB")
    if seen.watts is not None:
        facts.append(f"{seen.watts:4.0f} W")
    if seen.joules_per_frame is not None:
        per = "frame" if snapshot.frames_per_step > 1 else "step"
        facts.append(f"{measure(seen.joules_per_frame, 2)} J/{per}")
    return facts


def gib(size: float) -> str:
    """Return bytes in GiB, without the unit."""
    value = size / 2**30
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def gossip_line(snapshot: Snapshot, width: int) -> str:
    """Return the graph's name, its drawing, and the distances; the drawing is shortened first."""
    topology, apart = clip(clean(snapshot.topology), width // 3), distance(snapshot.consensus)
    graph = _graph(snapshot, width - len(topology) - len(apart) - 6)
    return f"{topology}   {graph}   {apart}"


def distance(seen: ConsensusReading) -> str:
    """Return the pairwise distance and its certificate; an older one with its age."""
    text = f"{quantities.PAIRWISE_DISTANCE} {measure(seen.pairwise, 2)}"
    if seen.certificate is not None:
        return f"{text} ≤ {measure(seen.certificate, 2)}"
    if seen.last_certificate is None or seen.last_certificate_age_s is None:
        return text
    age = words.duration(seen.last_certificate_age_s)
    return f"{text} (≤ {measure(seen.last_certificate, 2)} {age} ago)"


def gossip(snapshot: Snapshot, width: int) -> list[Text]:
    """Return the graph's name, its drawing, and the distances, values at the right."""
    topology = Text(clip(clean(snapshot.topology), width))
    return [topology, Text(_graph(snapshot, width)), *distances(snapshot, width)]


def distances(snapshot: Snapshot, width: int) -> list[Text]:
    """Return the distances and what they can be at most, by the names of metrics.jsonl."""
    seen = snapshot.consensus
    certificate = measure(seen.certificate)
    if seen.certificate is None and seen.last_certificate is not None:
        age = words.duration(seen.last_certificate_age_s)
        certificate = f"{measure(seen.last_certificate)} {age} ago"
    pairs = [
        (quantities.CONSENSUS_DISTANCE, measure(seen.rms)),
        (quantities.PAIRWISE_DISTANCE, measure(seen.pairwise)),
        (quantities.CERTIFICATE, certificate),
        (
            quantities.CERTIFICATE_RATIO,
            words.UNKNOWN if seen.ratio is None else f"{seen.ratio:.1%}",
        ),
    ]
    if seen.radius is not None:
        pairs.append((quantities.RADIUS, measure(seen.radius)))
    if seen.gradient_correlation is not None:
        pairs.append((quantities.GRADIENT_CORRELATION, f"{seen.gradient_correlation:.3f}"))
    return [pair(name, value, width) for name, value in pairs]


def _graph(snapshot: Snapshot, width: int) -> str:
    edges = {one.rank: one.out_peers for one in snapshot.learners}
    return words.gossip_graph(edges, width)


def hint(snapshot: Snapshot, width: int) -> str:
    """Return what limits the throughput, and the flags to change."""
    return clip(clean(snapshot.bottleneck) or "not known yet", width)


def mean_shares(learners: Iterable[LearnerSnapshot]) -> dict[str, float]:
    """Return the mean share of each phase over the learners that run; empty while unknown."""
    known = [
        one.phase_shares
        for one in learners
        if one.state == WorkerState.RUNNING and sum(one.phase_shares.values()) > 0
    ]
    return {
        phase: sum(share.get(phase, 0.0) for share in known) / len(known)
        for phase in (LEARNER_PHASES if known else ())
    }


def events(snapshot: Snapshot, width: int, rows: int, back: int = 0) -> list[str]:
    """Return `rows` events, oldest first, one line each: the newest, or those `back` before.

    Their times are those of the total clock, over all attempts.
    """
    end = len(snapshot.events) - back
    newest = snapshot.events[max(0, end - rows) : end] if rows > 0 else ()
    times = [words.duration(snapshot.former_s + event.elapsed_s) for event in newest]
    return [
        f"{time:>9}  {clip(clean(event.text), width - 11)}"
        for time, event in zip(times, newest, strict=True)
    ] or ["none"]


def health(snapshot: Snapshot) -> str:
    """Return how many learners work: `4/4 learners ok`."""
    fine = sum(one.state in (WorkerState.RUNNING, WorkerState.DONE) for one in snapshot.learners)
    number = len(snapshot.learners)
    return f"{fine}/{number} learner{'' if number == 1 else 's'} ok"


def last_warning(snapshot: Snapshot, width: int) -> str:
    """Return the newest event that somebody should know of; empty if there is none."""
    for event in reversed(snapshot.events):
        if event.kind in WARNINGS:
            age = words.duration(snapshot.elapsed_s - event.elapsed_s)
            return clip(f"{age} ago: {clean(event.text)}", width)
    return ""
