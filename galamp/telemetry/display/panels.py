"""The parts of the dashboard: each turns a snapshot into lines of coloured text.

Runs in the supervisor's process. A `Snapshot` goes in, lists of `rich` text at most `width` cells
wide come out, pure functions; `render` arranges them on a screen. Text from outside (names, paths,
events) passes through `clean` and is never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display import text as words
from galamp.telemetry.display.text import clip, count, fit, measure, score
from galamp.telemetry.snapshot import (
    LEARNER_PHASES,
    ConsensusReading,
    LearnerSnapshot,
    Snapshot,
    WorkerState,
)

LABEL_WIDTH = 9

STATUS_STYLES = {"running": "green", "finished": "bold green", "failed": "bold red"}
PHASES = {
    "collect": ("█", "blue"),
    "infer": ("▓", "cyan"),
    "update": ("▒", "green"),
    "gossip": ("░", "magenta"),
    "other": ("·", "bright_black"),
}
"""Character and colour of each phase: the bars can be read without colours too."""

HINTS = {
    "collect": "simulators are the limit: more --simulator-workers or cores",
    "infer": "acting is the limit: --device cuda, or more --threads",
    "update": "learning is the limit: --device cuda, or more --threads",
    "gossip": "waiting for slower peers: more --max-staleness, no --sync",
    "other": "neither simulators nor network: too many --learners?",
}
"""Advice by the phase that takes the most time."""
HINTS_CUDA = {
    "infer": "acting is the limit: more --num-envs, or GPUs in --device",
    "update": "learning is the limit: more --num-envs, or GPUs in --device",
}
"""Advice for learners on GPUs, where it differs."""


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
    """Return environment and protocol at the left, status and time at the right."""
    right = f"{clean(snapshot.status)}   {words.duration(snapshot.elapsed_s)}"
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
    done, total = snapshot.agent_steps, snapshot.total_steps
    facts = [f"{words.percent(done, total):>6}", f"{count(done)} of {count(total)} agent steps"]
    if snapshot.status in ("starting", "running", "checkpointing"):
        facts.append(f"left {words.duration(snapshot.remaining_s)}")
    text = fit(facts, max(1, width - 12)).ljust(52 if width >= 80 else 0)  # a bar that stays put
    room = max(0, width - len(text) - 2)
    full = min(room, room * done // total) if total > 0 else 0
    line = Text("━" * full, "cyan").append("─" * (room - full), "bright_black")
    return line.append(f"  {text}", "default")


def speed(snapshot: Snapshot) -> list[str]:
    """Return the throughput in agent steps and, where there are any, in emulator frames."""
    facts = [f"{count(snapshot.agent_steps_per_s)} agent steps/s"]
    if snapshot.frames_per_step > 1:
        frames = snapshot.agent_steps_per_s * snapshot.frames_per_step
        facts.append(f"{count(frames)} emulator frames/s")
    if snapshot.restarts:
        facts.append(f"{snapshot.restarts} restart{'s' if snapshot.restarts > 1 else ''}")
    return facts


def scores(snapshot: Snapshot) -> list[str]:
    """Return the scores; the last item is omitted first where space is short."""
    if not snapshot.episodes:
        return ["no episode finished yet"]
    return [
        f"of {count(snapshot.episodes)} episode{'s' if snapshot.episodes > 1 else ''}",
        f"score {score(snapshot.mean_return)}",
        f"best {score(snapshot.best_mean_return)}",
        f"length {_length(snapshot)}",
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


def losses(snapshot: Snapshot) -> list[str]:
    """Return each loss with a short name and its value."""
    short = {"grad_norm": "grad", "explained_variance": "explained"}
    return [
        f"{clean(short.get(name, name.removesuffix('_loss')))} {measure(value, 2)}"
        for name, value in snapshot.losses.items()
    ] or ["no update yet"]


def numbers(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    """Return speed, score and losses, one per line, values at the right; at most `rows` lines."""
    rate = snapshot.agent_steps_per_s
    pairs = [
        ("agent steps/s", count(rate)),
        ("emulator frames/s", count(rate * snapshot.frames_per_step)),
        ("mean score", score(snapshot.mean_return)),
        ("best mean score", score(snapshot.best_mean_return)),
        ("mean length", _length(snapshot)),
        ("episodes", count(snapshot.episodes)),
        ("restarts", count(snapshot.restarts)),
    ]
    if snapshot.frames_per_step <= 1:
        del pairs[1]
    if (seen := snapshot.evaluation) is not None:
        pairs.append((f"eval score at {count(seen.agent_steps)}", score(seen.mean)))
        pairs.append((f"best eval score at {count(seen.best_at)}", score(seen.best)))
    found = [
        (clean(name.replace("_", " ")), measure(value)) for name, value in snapshot.losses.items()
    ]
    blank = [("", "")] if found and len(pairs) + len(found) < rows else []
    return [_pair(*pair, width) for pair in (pairs + blank + found)[:rows]]


def _pair(name: str, value: str, width: int) -> Text:
    return Text(name, "dim").append(value.rjust(width - len(name)), "default")


def _length(snapshot: Snapshot) -> str:
    if snapshot.mean_length is None:
        return words.UNKNOWN
    return f"{count(snapshot.mean_length)} agent steps"


def gossip_line(snapshot: Snapshot, width: int) -> str:
    """Return the graph's name, its drawing, and the distances; the drawing is shortened first."""
    topology, apart = clip(clean(snapshot.topology), width // 3), distance(snapshot.consensus)
    graph = _graph(snapshot, width - len(topology) - len(apart) - 6)
    return f"{topology}   {graph}   {apart}"


def distance(seen: ConsensusReading) -> str:
    """Return the distance between the two farthest learners, and its upper bound."""
    text = f"distance {measure(seen.pairwise, 2)}"
    if seen.certificate is None or seen.ratio is None:
        return text
    return f"{text} ≤ {measure(seen.certificate, 2)} ({seen.ratio:.0%})"


def gossip(snapshot: Snapshot, width: int) -> list[Text]:
    """Return the graph's name, its drawing, and the distances, values at the right."""
    seen = snapshot.consensus
    pairs = [
        ("rms to the mean", measure(seen.rms)),
        ("farthest two", measure(seen.pairwise)),
        ("proved at most", measure(seen.certificate)),
        ("ratio", words.UNKNOWN if seen.ratio is None else f"{seen.ratio:.1%}"),
    ]
    if seen.radius is not None:
        pairs.append(("radius in theory", measure(seen.radius)))
    if seen.gradient_correlation is not None:
        pairs.append(("cosine of gradients", f"{seen.gradient_correlation:.3f}"))
    numbers = [_pair(name, value, width) for name, value in pairs]
    return [Text(clip(clean(snapshot.topology), width)), Text(_graph(snapshot, width)), *numbers]


def _graph(snapshot: Snapshot, width: int) -> str:
    edges = {one.rank: one.out_peers for one in snapshot.learners}
    return words.gossip_graph(edges, width)


def hint(snapshot: Snapshot, width: int) -> str:
    """Return the phase that takes most of the learners' time, and the flags to change."""
    shares = mean_shares(snapshot.learners)
    if not shares:
        return "not known yet"
    phase = max(shares, key=lambda name: shares[name])
    cuda = any(one.device.startswith("cuda") for one in snapshot.learners)
    advice = HINTS_CUDA.get(phase, HINTS[phase]) if cuda else HINTS[phase]
    return clip(f"{phase}: {advice}", width)


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


def events(snapshot: Snapshot, width: int, rows: int) -> list[str]:
    """Return the newest `rows` events, oldest of them first, one line each."""
    newest = snapshot.events[-rows:] if rows > 0 else ()
    return [
        f"{words.duration(event.elapsed_s):>9}  {clip(clean(event.text), width - 11)}"
        for event in newest
    ] or ["none"]


def chart(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Return the mean score over agent steps, with its extremes, on `height` lines.

    Empty where it would not be readable.
    """
    if height < 2 or width < 40:
        return []
    curve = snapshot.curve
    if not curve:
        middle = [Text()] * (height // 2) + [Text("no score yet".center(width), "dim")]
        return middle + [Text()] * (height - len(middle))
    top, low = score(max(y for _, y in curve)), score(min(y for _, y in curve))
    gutter = max(len(top), len(low), LABEL_WIDTH - 2)
    names = [""] * (height - 1)
    names[-1], names[0] = low, top
    drawn = words.line_chart(curve, width - gutter - 2, height - 1)
    lines = [
        Text(f"{name:>{gutter}} ", "dim").append("│", "bright_black").append(line, "cyan")
        for name, line in zip(names, drawn, strict=True)
    ]
    first, last = count(curve[0][0]), f"{count(curve[-1][0])} agent steps"
    rule = "─" * max(0, width - gutter - 5 - len(first) - len(last))
    axis = Text(" " * (gutter + 1)).append("└ ", "bright_black").append(f"{first} ", "dim")
    return [*lines, axis.append(rule, "bright_black").append(f" {last}", "dim")]
