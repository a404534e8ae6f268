"""What an evaluation found, in words: for terminals, and for the sentences of its page."""

from ..tables import aligned
from .estimates import Interval
from .figures import METRICS, SMALLER_IS_BETTER
from .results import Comparison, Evaluation, Point, Sweep
from .sets import FRECHET_IMAGES

NAMES = {
    "kid": "KID",
    "frechet": "Fréchet distance",
    "spatial_frechet": "spatial Fréchet distance",
    "inception_score": "Inception Score",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
FEW = 100  # images: below, intervals are wide, and precision and its like are biased


def metric_name(metric: str, network: str) -> str:
    """A metric's whole name: figures of different networks have nothing to do with each other.

    With Inception's features the distances have names of their own.
    """
    own = {"frechet": "FID", "spatial_frechet": "sFID"} if network == "inception" else {}
    return f"{own.get(metric, NAMES[metric])} ({network})"


def warnings(evaluation: Evaluation) -> list[str]:
    """What a reader must know before quoting the figures."""
    found: list[str] = []
    blind = {one.metric: one for one in evaluation.separation}.get(evaluation.headline)
    if blind is not None and not (blind.collapse and blind.blur):
        missed = " and ".join(name for name in ("collapse", "blur") if not getattr(blind, name))
        count = evaluation.controls[0].figures.images
        found.append(
            f"At {count:,} images the {NAMES[evaluation.headline]} does not tell the made {missed} from real held-out "
            "images: it proves little here."
        )
    for origin, what in ((evaluation.made, "images"), (evaluation.reference, "images of the reference")):
        if origin.unreadable + origin.small:
            reasons = ((origin.unreadable, "cannot be read"), (origin.small, "are smaller than the size"))
            words = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
            found.append(f"{origin.unreadable + origin.small:,} {what} were left out: {words}.")
    least = min(evaluation.figures.images, evaluation.controls[0].figures.images)
    if least < FEW:
        found.append(f"The controls are measured at {least:,} images only: their intervals are wide.")
    found += [
        f"Failure seen: {check.name} ({check.what})." for check in evaluation.signatures if check.verdict == "seen"
    ]
    return found


def memorisation_words(evaluation: Evaluation) -> str:
    """Whether images were memorised."""
    found = evaluation.memorisation
    return (
        f"{found.share.value:.1%} [{found.share.low:.1%}, {found.share.high:.1%}] of the made images lie nearer to a "
        "training image than 1% of the real held-out images do; where nothing is memorised that is about 1%. Median "
        f"distance to the nearest training image: {found.made:.3g}, of held-out images {found.held_out:.3g}."
    )


def figures_text(evaluation: Evaluation) -> str:
    """An evaluation's figures and controls, as rows."""
    controls = {column.name: column.figures for column in evaluation.controls}
    shared = controls["made"].images
    if shared == evaluation.figures.images:
        del controls["made"]
    rows: list[list[str]] = [
        ["", f"made at {evaluation.figures.images:,}", *(f"{name} at {shared:,}" for name in controls)]
    ]
    for metric in METRICS:
        name, whole = metric_name(metric, evaluation.network), getattr(evaluation.figures, metric)
        others = [getattr(one, metric) for one in controls.values()]
        if whole is not None:
            rows.append([name, str(whole), *("—" if value is None else f"{value.value:.4g}" for value in others)])
        elif metric == "frechet":
            rows.append([name, f"not given below {FRECHET_IMAGES:,} images"])
    made, real = evaluation.made, evaluation.reference
    head = [
        f"{made.images:,} images of {made.name} against {real.images:,} real ones",
        f"framing: {evaluation.framing}",
        "",
    ]
    checks = [["", ""], *([check.name, _verdict(check.verdict, check.difference)] for check in evaluation.signatures)]
    notes = [f"! {warning}" for warning in warnings(evaluation)]
    return "\n".join([*head, aligned(rows), aligned(checks), *([""] if notes else []), *notes])


def comparison_text(comparison: Comparison) -> str:
    """Two evaluations' figures and their differences, as rows."""
    network = comparison.a.network
    rows = [["", *comparison.names, "difference", ""]]
    rows += [
        [
            metric_name(one.metric, network),
            str(one.a),
            str(one.b),
            str(one.difference),
            difference_words(one.metric, one.difference),
        ]
        for one in comparison.differences
    ]
    return f"both at {comparison.images:,} images\n\n{aligned(rows)}"


def difference_words(metric: str, difference: Interval) -> str:
    """Which of two is better, if that can be told."""
    if difference.low <= 0 <= difference.high:
        return "no difference that can be told from chance"
    lower = difference.high < 0
    return "B is better" if lower == (metric in SMALLER_IS_BETTER) else "A is better"


def sweep_text(sweep: Sweep) -> str:
    """A sweep's points by the headline metric, as rows."""
    shown = [sweep.headline, *(name for name in ("precision", "recall") if name != sweep.headline)]
    rows = [[*sweep.axes, *(metric_name(name, sweep.network) for name in shown), ""]]
    comparable = len(sweep.held_out) == 1  # figures against different references are not
    best = min(sweep.points, key=lambda point: rank(point, sweep.headline)) if comparable else None
    for point in sweep.points:
        figures = [str(getattr(point.figures, name) or "—") for name in shown]
        rows.append([*point.settings.values(), *figures, "best" if point is best else ""])
    empty = [""] * (len(sweep.axes) - 1)
    for column in sweep.held_out:
        name = "held-out" if len(sweep.held_out) == 1 else f"held-out, {column.name}"
        rows.append([name, *empty, *(str(getattr(column.figures, metric) or "—") for metric in shown), "real images"])
    return aligned(rows)


def rank(point: Point, metric: str) -> float:
    """A number by which points are ordered, the best first; those without the metric come last."""
    value = getattr(point.figures, metric)
    if value is None:
        return float("inf")
    return value.value if metric in SMALLER_IS_BETTER else -value.value


def _verdict(verdict: str, difference: Interval | None) -> str:
    return verdict if difference is None else f"{verdict} (made − real: {difference})"
