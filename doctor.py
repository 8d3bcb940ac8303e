"""Looks at everything before the night is spent: what would spoil a training, and the command that mends it.

Reads, without changing anything: the installation, dataset_raw/, dataset/44k/ with its features, the config, and models
in logs/. Writes one line for each thing found, and with --html a page with charts and the worst files to
listen to. Exit code 1: something would spoil a training.

Example: python doctor.py
Example: python doctor.py recordings --in_dir "D:/takes" --html doctor.html
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, run
from modules.doctor.findings import SECTIONS, Finding, by_weight
from modules.doctor.guard import from_text, listening
from modules.errors import FAILURES, UsageError
from modules.registry import unknown_name

if TYPE_CHECKING:
    from modules.doctor.sounds import Examination

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Prints what was found; returns 1 where something would spoil a training."""
    arguments = make_arguments().parse_args(argv)
    for section in arguments.sections:
        if section not in SECTIONS:
            raise UsageError(unknown_name("section", section, list(SECTIONS)))
    if arguments.num_processes < 0:
        raise UsageError(f"--num_processes {arguments.num_processes}: expected 0 or more")
    configure_logging(level=logging.WARNING)
    if arguments.html:
        _check_page(arguments)

    findings, examinations = [], []
    for section in [name for name in SECTIONS if name in (arguments.sections or SECTIONS)]:
        found = _look(section, arguments, examinations)
        findings += found
        if not arguments.json:
            _print_section(section, found)
    _finish(arguments, findings, examinations)
    return int(any(finding.level == "error" for finding in findings))


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    sections = f"what to look at: {', '.join(SECTIONS)} (default: all)"
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=sections)
    parser.add_argument("--in_dir", type=Path, default=Path("./dataset_raw"), help="folder with the recordings")
    parser.add_argument("--source_dir", type=Path, default=Path("./dataset/44k"), help="folder with the clips")
    parser.add_argument("-c", "--config", type=Path, default=Path("./configs/config.json"), help="config of the voice")
    parser.add_argument("--logs", type=Path, default=Path("./logs"), help="folder with one folder for each model")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines, for other programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with charts and players")
    parser.add_argument("--overwrite", action="store_true", help="replace an --html FILE that doctor.py did not make")
    parser.add_argument("--num_processes", type=int, default=0, help="worker processes; 0 = one for each core")
    return parser


def _look(section: str, arguments: argparse.Namespace, examinations: list["Examination"]) -> list[Finding]:
    """What there is to say of a section; files are measured into `examinations`."""
    checks: dict[str, Callable[[], list[Finding]]] = {
        "environment": lambda: _environment(arguments),
        "recordings": lambda: _recordings(arguments, examinations),
        "clips": lambda: _clips(arguments, examinations),
        "features": lambda: _features(arguments),
        "config": lambda: _settings(arguments),
        "models": lambda: _models(arguments),
    }
    findings = []
    with listening() as said:
        try:
            findings += checks[section]()
        except FAILURES as error:
            if arguments.sections:  # who names a section wants it looked at
                raise
            findings.append(from_text(section, "error", "unusable", section, error))
    findings += [from_text(section, "warning", "notice", "", text) for text in said]
    return by_weight(findings)


def _environment(arguments: argparse.Namespace) -> list[Finding]:
    from modules.doctor.environment import check_environment

    return check_environment(arguments.config)


def _recordings(arguments: argparse.Namespace, examinations: list["Examination"]) -> list[Finding]:
    if not arguments.in_dir.is_dir() and not arguments.sections:
        text = f"no recordings in {arguments.in_dir} yet"
        return [Finding("recordings", "info", "none", "", text, f"Put them in {arguments.in_dir}/SPEAKER/")]
    from modules.doctor.sounds import examine, recordings_in

    # Pitch and strangers are looked for once: in the clips, where there are any.
    has_clips = arguments.source_dir.is_dir() and "clips" in (arguments.sections or SECTIONS)
    speakers = recordings_in(arguments.in_dir, arguments.source_dir)
    examined = examine("recordings", speakers, arguments.num_processes, not has_clips)
    examinations.append(examined)
    return examined.findings


def _clips(arguments: argparse.Namespace, examinations: list["Examination"]) -> list[Finding]:
    if not arguments.source_dir.is_dir() and not arguments.sections:
        text = f"no clips in {arguments.source_dir} yet"
        return [Finding("clips", "info", "none", "", text, "Make them with: python resample.py")]
    from modules.doctor.sounds import clips_in, examine
    from modules.doctor.speakers import find_strangers

    speakers = clips_in(arguments.source_dir)
    examined = examine("clips", speakers, arguments.num_processes)
    examinations.append(examined)
    readable = {speaker: list(sounds) for speaker, sounds in examined.sounds.items()}
    return examined.findings + find_strangers("clips", readable, examined.ruined)


def _features(arguments: argparse.Namespace) -> list[Finding]:
    from modules.doctor.features import check_features

    return check_features(arguments.config, arguments.source_dir)


def _settings(arguments: argparse.Namespace) -> list[Finding]:
    from modules.doctor.settings import check_settings

    return check_settings(arguments.config, arguments.source_dir)


def _models(arguments: argparse.Namespace) -> list[Finding]:
    from modules.doctor.models import check_models

    return check_models(arguments.logs, arguments.config)


def _check_page(arguments: argparse.Namespace) -> None:
    from modules.doctor.report import is_own_page
    from modules.files import check_output

    is_ours = arguments.html.is_file() and is_own_page(arguments.html)
    check_output(arguments.html, [arguments.config], arguments.overwrite or is_ours, (".html", ".htm"), "--html")


def _print_section(section: str, findings: list[Finding]) -> None:
    if not any(finding.level != "info" for finding in findings):
        print(f"{section}: ok", flush=True)
    else:
        print(section, flush=True)
    for finding in findings:
        print(f"  {'' if finding.level == 'info' else finding.level + ' '}{finding}", flush=True)


def _finish(arguments: argparse.Namespace, findings: list[Finding], examinations: list["Examination"]) -> None:
    """Writes the page and the last lines, or all of the JSON."""
    from modules.doctor.report import build_page, plain
    from modules.files import write_text

    if arguments.html:
        write_text(arguments.html, build_page(findings, examinations))
    if arguments.json:
        print(json.dumps(plain(findings, examinations), ensure_ascii=False))
        return
    errors, warnings = (sum(finding.level == level for finding in findings) for level in ("error", "warning"))
    if errors:
        print(f"{errors} would spoil a training, {warnings} more make it worse")
    else:
        print(f"Nothing found that would spoil a training{f'; {warnings} make it worse' if warnings else ''}")
    if arguments.html:
        print(f"Page: {arguments.html}")


if __name__ == "__main__":
    run(main)
