"""The page: its tabs, put together."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio

Parsers = Mapping[str, argparse.ArgumentParser]  # script -> its flags


def build_page(parsers: Parsers) -> "gradio.Blocks":
    """The page over the scripts whose flags are given."""
    import gradio

    from modules.webui.conversion import CONVERT, COVER
    from modules.webui.convert import build_convert
    from modules.webui.server import DAY
    from modules.webui.tools import build_tools
    from modules.webui.train import build_train

    with gradio.Blocks(title="Singing voice conversion", analytics_enabled=False, delete_cache=(DAY, DAY)) as page:
        with gradio.Tab("Convert"):
            build_convert(page, parsers, CONVERT)
        with gradio.Tab("Cover"):
            build_convert(page, parsers, COVER)
        with gradio.Tab("Train"):
            build_train(page, parsers)
        with gradio.Tab("Tools"):
            build_tools(page, parsers)
    return page
