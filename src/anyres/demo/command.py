"""`anyres demo`: serve the page until Ctrl-C."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from ..files import check_writable
from ..sample.pipeline import Pipeline
from .options import DemoOptions
from .page import CSS, Page, gradio


def run(options: DemoOptions) -> None:
    """Serve the page of a model, until the process is interrupted.

    Raises:
        AnyResError: the model cannot be loaded, gradio is missing, or the address is taken.
    """
    gradio()  # its absence is told before the model is loaded
    if options.out is not None:
        check_writable(options.out)
    pipe = Pipeline.from_pretrained(
        options.model, device=options.device, dtype=options.dtype, attention=options.attention
    )
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves as Ctrl-C does
    with serving(pipe, options) as url:
        print(f"anyres demo: {options.model} at {url} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()


@contextmanager
def serving(pipe: Pipeline, options: DemoOptions) -> Iterator[str]:
    """Serve the page while the block runs; gives its address.

    What the page keeps lies in a temporary folder that is removed at the end.

    Raises:
        ConfigError: the address cannot be listened at.
    """
    gr = gradio()
    with tempfile.TemporaryDirectory(prefix="anyres-demo-") as kept:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(kept))
        page = Page(pipe, options.model, options.out)
        blocks = page.blocks()
        try:
            blocks.launch(
                server_name=options.host,
                server_port=options.port,
                inbrowser=options.browser,
                share=False,
                ssr_mode=False,
                quiet=True,
                max_file_size="64mb",
                prevent_thread_lock=True,
                footer_links=[],
                css=CSS,
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {options.host}, port {options.port or 'from 7860 on'}: {error}",
                wanted="an address of this machine and a free port",
                fix="choose another --port, or leave out --host",
            ) from error
        try:
            yield str(blocks.local_url)
        finally:
            page.close()
            blocks.close(verbose=False)
