"""What other programs can ask of the page, with gradio_client or over HTTP: to convert songs, and to take some in."""

import argparse
from typing import Any

from modules.errors import UsageError
from modules.webui import conversion, jobs, workspace
from modules.webui.conversion import CONVERT, Form
from modules.webui.panel import refusals_told


def add_endpoints(form: Form, parser: argparse.ArgumentParser) -> None:
    """What other programs can ask for."""
    import gradio

    @refusals_told
    def convert(
        model: str, songs: list[str], speakers: list[str], settings: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Converts songs (names in raw/, or paths in the workspace) to the speakers of a voice, and waits for it.

        Settings are the long names of the script's flags with their values, such as {"trans": "auto"}.
        Gives `status`, `results` (for each what the script's --json line says), and `errors`.
        """
        values = conversion.verify(parser, model, songs, speakers, settings)
        while (other := jobs.running(form.kind)) is not None:
            other.wait(60)
        job = conversion.start(form, parser, values)
        while not job.wait(60):
            pass
        results = conversion.results_of(job)
        if job.status == "failed" and not results:
            raise UsageError(job.last_error())
        return {"status": job.status, "results": results, "errors": conversion.errors_of(job)}

    @refusals_told
    def upload_songs(files: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
        """Puts uploaded files into raw/. Gives their paths, and what is wrong with those that are no audio."""
        paths = [str(file.get("path")) for file in files]
        kept, problems = workspace.keep_sounds(paths, workspace.SONGS)
        return [path.as_posix() for path in kept], problems

    gradio.api(convert, api_name=form.kind, **form.one_at_a_time)
    if form == CONVERT:
        gradio.api(upload_songs, api_name="upload_songs")
