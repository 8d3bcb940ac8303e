"""The tools for models as endpoints for programs: gradio_client's `predict(..., api_name="/inspect")`."""

from typing import TYPE_CHECKING, Any

from modules.errors import UserError
from modules.webui import jobs, panel, tool_jobs

if TYPE_CHECKING:
    from modules.webui.page import Parsers


def add_endpoints(parsers: "Parsers") -> None:
    """Puts the endpoints into the page that is being built; each gives what its script said."""
    import gradio

    def run(name: str, **values: Any) -> str:
        while (other := jobs.running(tool_jobs.KIND)) is not None:
            other.wait(1)
        job = tool_jobs.start(tool_jobs.TOOLS[name], parsers, values)
        while not job.wait(60):
            pass
        if job.status != "done":
            raise UserError(f"{name}: {job.status}. {job.last_error()}")
        return tool_jobs.result_of(job)

    def mix(weights: str, mode: str = "", output: str = "", overwrite: bool = False) -> str:
        """Blends voices; weights is JSON with the path and percent of each."""
        return run("mix", weights=weights, mode=mode, output=output, overwrite=overwrite)

    def compress(model: str, half: bool = False, int8: bool = False, output: str = "", overwrite: bool = False) -> str:
        """Makes a voice small enough to publish."""
        return run("compress", input=model, half=half, int8=int8, output=output, overwrite=overwrite)

    def inspect(paths: list[str], json: bool = False) -> str:
        """Says what model files are."""
        return run("inspect", paths=paths, json=json)

    def compare(source: str, result: str, output: str = "", overwrite: bool = False) -> str:
        """Measures how well a converted song follows its source, and draws both."""
        return run("compare", source=source, result=result, output=output, overwrite=overwrite)

    def evaluate(
        model: str, songs: list[str], speakers: list[str] | None = None, output: str = "", overwrite: bool = False
    ) -> str:
        """Measures a voice on songs and folders with songs, and writes a report."""
        values = {"model_path": model, "input": songs, "spk_list": speakers, "output": output}
        return run("evaluate", overwrite=overwrite, **values)

    def grid(
        models: list[str],
        songs: list[str],
        speakers: list[str] | None = None,
        keys: str = "0",
        predictors: str = "",
        seconds: float | None = None,
        name: str = "",
        overwrite: bool = False,
    ) -> str:
        """Sings songs with all combinations of models, speakers, keys ("0 -12") and predictors ("fcpe pm")."""
        chosen = {"model_path": models, "clean_names": songs, "spk_list": speakers, "name": name}
        how = {"trans": keys, "f0_predictor": predictors, "seconds": seconds, "overwrite": overwrite}
        return run("grid", **chosen, **how)

    for function in (mix, compress, inspect, compare, evaluate, grid):
        gradio.api(
            panel.refusals_shown(function),
            api_name=function.__name__,
            concurrency_limit=1,
            concurrency_id=tool_jobs.KIND,
        )
