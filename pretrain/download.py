"""Fetches pretrained files: speech encoders, F0 networks, the vocoder and base models.

Reads nothing but the network. Writes to pretrain/ of the current folder (base models to logs/44k/); a file that already
exists is checked and kept. A broken transfer goes on where it stopped: give the same command again. Proxies are taken
from HTTPS_PROXY.

Example: python pretrain/download.py contentvec rmvpe
"""

import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as pretrain/download.py from anywhere

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DownloadError, UsageError
from modules.files import sha256_of, write_json
from modules.pretrained.catalogue import PACKAGES, Package, Weights, package
from modules.pretrained.download import extract_members, fetch

logger = logging.getLogger(__name__)
HUGGING_FACE = "https://huggingface.co"
RECORD = "pretrain/checksums.json"


def main(argv: list[str] | None = None) -> int:
    """Fetches what was named; returns 0, or 1 when something failed."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="what to fetch; --list shows the names")
    add("--all", action="store_true", help="everything except base models, which go by name only")
    add("--list", action="store_true", help="show what there is, and which files exist already")
    add("--dir", type=Path, default=Path(), help="workspace to write to (default: the current folder)")
    add("--force", action="store_true", help="replace existing files, except base models")
    mirror = "another server for huggingface.co, or OLD=NEW for any start of an address; can be given several times. "
    mirror += "The environment variable HF_ENDPOINT does the first, too"
    add("--mirror", action="append", default=[], metavar="URL", help=mirror)
    arguments = parser.parse_args(argv)
    configure_logging()
    if arguments.list:
        _show_list(arguments.dir)
        return 0
    chosen = [package(name) for name in arguments.names]
    if arguments.all:
        chosen += [each for each in PACKAGES if not each.name.startswith("base-") and each not in chosen]
    if not chosen:
        raise UsageError("name what to fetch, or give --all; python pretrain/download.py --list shows the names")
    mirrors = _read_mirrors(arguments.mirror)
    failed = [each.name for each in chosen if not _fetch_package(each, arguments.dir, arguments.force, mirrors)]
    if failed:
        logger.error("%d of %d failed: %s; the reasons stand above", len(failed), len(chosen), ", ".join(failed))
        return 1
    print(next_step("python preprocess_flist_config.py --help"))
    return 0


def _show_list(root: Path) -> None:
    width = max(len(each.name) for each in PACKAGES)
    print(f"{'name':{width}}  {'MB':>5}  here  licence and use")
    for each in PACKAGES:
        here = "yes" if all((root / file.path).is_file() for file in each.files) else "no"
        print(f"{each.name:{width}}  {each.size:>5}  {here:4}  {each.licence} · {each.needed_by}")
        for file in each.files:
            print(f"{'':{width}}  {'':5}        {file.path}")


def _read_mirrors(given: list[str]) -> dict[str, str]:
    """Start of an address -> what to put there instead."""
    endpoint = os.environ.get("HF_ENDPOINT")
    mirrors = {HUGGING_FACE: endpoint.rstrip("/")} if endpoint else {}
    for text in given:
        old, separator, new = text.partition("=")
        old, new = (old, new) if separator and "://" in new else (HUGGING_FACE, text)
        if "://" not in old or "://" not in new:
            raise UsageError(f"--mirror {text}: expected an address, or OLD=NEW with two addresses")
        mirrors[old.rstrip("/")] = new.rstrip("/")
    return mirrors


def _mirrored(url: str, mirrors: dict[str, str]) -> str:
    return next((new + url.removeprefix(old) for old, new in mirrors.items() if url.startswith(old + "/")), url)


def _fetch_package(wanted: Package, root: Path, force: bool, mirrors: dict[str, str]) -> bool:
    """Whether all its files exist in the end; what went wrong is logged."""
    is_base = wanted.name.startswith("base-")  # somebody may have trained from the one that exists
    missing = [file for file in wanted.files if not _is_here(file, root) or (force and not is_base)]
    if not missing:
        return True
    logger.info("%s: about %d MB, licence: %s", wanted.name, wanted.size, wanted.licence)
    try:
        if wanted.archive:
            archive = root / "pretrain" / f"{wanted.name}.zip"
            fetch(_mirrored(wanted.archive, mirrors), archive)
            members = zip(wanted.members, wanted.files, strict=True)
            extract_members(archive, {member: root / file.path for member, file in members if file in missing})
            archive.unlink()
        for file in missing:
            path = root / file.path
            found = sha256_of(path) if wanted.archive else fetch(_mirrored(file.url, mirrors), path, file.sha256)
            if file.sha256 is None:
                _record(file.path, found, root)
    except DownloadError as error:
        logger.error("%s", error)
        return False
    logger.info("%s: ready", wanted.name)
    return True


def _is_here(file: Weights, root: Path) -> bool:
    """Whether the file exists; a warning where it is, as far as that is known, not the right one."""
    path = root / file.path
    if not path.is_file():
        return False
    expected = file.sha256 or _records(root).get(file.path)
    if expected and not sha256_of(path).startswith(expected):
        logger.warning("%s: is not the file that was published or fetched before; --force replaces it", path)
    else:
        logger.info("%s: already exists", path)
    return True


def _records(root: Path) -> dict[str, str]:
    try:
        known = json.loads((root / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _record(path: str, found: str, root: Path) -> None:
    """Remembers a checksum that nobody published, and warns where it is another than the last time."""
    known = _records(root)
    if known.get(path, found) != found:
        logger.warning("%s: has changed since it was fetched before (sha256 %s...)", path, found[:16])
    elif path not in known:
        logger.warning("%s: no checksum is published; the one that came is %s... and is now recorded", path, found[:16])
    write_json(root / RECORD, {**known, path: found})


if __name__ == "__main__":
    run(main)
