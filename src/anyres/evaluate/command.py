"""`anyres evaluate` and `anyres reference`."""

from .bench import save_reference
from .compare import compare
from .evaluation import evaluate
from .options import EvaluateOptions, ReferenceOptions
from .report import PAGE
from .subject import Subject
from .sweep import sweep
from .words import comparison_text, figures_text, sweep_text


def run(options: EvaluateOptions) -> str:
    """Evaluate, sweep or compare; returns what to print, which is nothing in all processes but the first.

    Raises:
        AnyResError: bad input, as the parts raise it.
    """
    page = f"\n\nreport: {options.out / PAGE}"
    if options.compare is not None:
        return comparison_text(compare(*options.compare, options.out, seed=options.seed)) + page
    subject = Subject.open(options)
    if options.sweep:
        swept = sweep(options, subject)
        return sweep_text(swept) + page if swept else ""
    found = evaluate(options, subject)
    return figures_text(found) + page if found else ""


def reference(options: ReferenceOptions) -> str:
    """Make a reference; returns what to print.

    Raises:
        AnyResError: bad input, as the parts raise it.
    """
    made = save_reference(options)
    return (
        f"reference  {options.out}\n"
        f"images     {made.training_images:,}, and held out {made.held_out}\n"
        f"left out   {made.unreadable:,} unreadable, {made.small:,} too small\n"
        f"framing    {made.protocol.framing}\n"
        f"network    {made.protocol.network}: {made.protocol.network_input}"
    )
