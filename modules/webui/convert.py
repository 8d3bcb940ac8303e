"""The tab Convert."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio

    from modules.webui.page import Parsers


def build_convert(page: "gradio.Blocks", parsers: "Parsers") -> None:
    """Puts the tab into the page that is being built."""
    import gradio

    gradio.Markdown("convert")
