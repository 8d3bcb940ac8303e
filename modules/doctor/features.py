"""The features of the clips: made, up to date with clips and config, whole; and whether their pitch can be right."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.data.clips import COMMAND, find_clips, orphans, shorten
from modules.data.filelist import read_list, speaker_of
from modules.doctor.findings import Finding
from modules.doctor.guard import from_text, guarded, listening
from modules.errors import FAILURES, DataError, UserError
from modules.f0.limits import F0_MAX, F0_MIN
from modules.text import counted, listing, printable, quote

if TYPE_CHECKING:
    from modules.config.schema import Config

SECTION = "features"
_DEFAULT_PREDICTOR = "fcpe"  # needs no download
_LISTENED = 100  # clips of a speaker, from all over, whose pitch is compared with the sound: 33 ms each of 9 s
_WORDS = {
    "absent": "missing, all or some,",
    "stale": "stale (the clip or the config has changed)",
    "damaged": "damaged",
    "unreadable": "not looked at, as the clip itself cannot be read,",
}


@dataclass
class _State:
    """What was found, clip by clip."""

    usable: list[Path] = field(default_factory=list)
    problems: dict[str, dict[Path, Exception]] = field(default_factory=dict)  # of `_WORDS`, or "unreadable"
    edited: list[Path] = field(default_factory=list)  # files
    made_by: dict[str, Counter] = field(default_factory=dict)  # "encoder", "predictor" -> how many clips
    pitch: Counter = field(default_factory=Counter)  # (predictor, f0_min, f0_max) -> how many clips
    with_mel: int = 0  # clips that have what the diffusion model needs

    @property
    def command(self) -> str:
        """The command of step 3 with the flags that were used before."""
        predictor, low, high = self.pitch.most_common(1)[0][0] if self.pitch else (_DEFAULT_PREDICTOR, F0_MIN, F0_MAX)
        limits = [("f0_min", low)] * (low != F0_MIN) + [("f0_max", high)] * (high != F0_MAX)
        words = [COMMAND, "--f0_predictor", quote(predictor.split(":")[0])]
        words += [f"--{name} {value:g}" for name, value in limits]
        return " ".join([*words, *(["--use_diff"] if self.with_mel else [])])


def check_features(config_path: Path, source_dir: Path, show: bool = True) -> list[Finding]:
    """The features in `source_dir`/SPEAKER/ against clips and config; `show` bars where it takes over 2 s."""
    from modules.config.io import load_config

    try:
        with listening():
            config, (clips, _) = load_config(config_path), find_clips(source_dir)
    except FAILURES as error:
        what = "not made yet" if isinstance(error, DataError) else "not looked at"
        return [_not_yet(str(source_dir), what, error)]
    state = _look_at_all(clips, config, config_path, show)
    if not state.usable and len(state.problems.get("absent", ())) == len(clips) and not state.made_by:
        remedy = f"{COMMAND} --f0_predictor {_DEFAULT_PREDICTOR}"
        text = f"not made yet, for {counted(len(clips), 'clip')}"
        return [Finding(SECTION, "info", "beginning", printable(source_dir), text, remedy)]
    found = guarded(SECTION, "features", _check_states, state, config, len(clips))
    found += guarded(SECTION, "features", _check_makers, state)
    found += guarded(SECTION, "features", _check_orphans, source_dir)
    found += guarded(SECTION, "pitch", _check_pitch, state, config, show)
    found += guarded(SECTION, "histograms", _check_histograms, source_dir, state)
    if not state.problems:
        predictors = _names(state.made_by.get("predictor", Counter()))
        text = f"those of {counted(len(clips), 'clip')} are all there and fit the config "
        text += f"({printable(config.model.speech_encoder)}, {predictors})"
        found.insert(0, Finding(SECTION, "info", "features", printable(source_dir), text))
    return found


def _not_yet(subject: str, what: str, error: Exception) -> Finding:
    found = from_text(SECTION, "info", "beginning", subject, error)
    return Finding(SECTION, "info", "beginning", found.subject, f"{what}: {found.text}", found.remedy)


def _listed(config: "Config") -> set[Path] | None:
    """The clips of both lists; None where these cannot be read, which the section config says."""
    try:
        names = config.data.training_files, config.data.validation_files
        return {clip.absolute() for name in names for clip in read_list(Path(name))}
    except FAILURES:
        return None


def _look_at_all(clips: list[Path], config: "Config", config_path: Path, show: bool) -> _State:
    from tqdm import tqdm

    state, mel = _State(), _mel_of(config_path)
    bar = {"unit": "file", "leave": False, "dynamic_ncols": True, "delay": 2, "disable": not show}
    for clip in tqdm(clips, "check features", **bar):
        try:
            _look_at(clip, config, mel, state)
        except Exception as error:
            state.problems.setdefault("unreadable", {})[clip] = error
    return state


def _mel_of(config_path: Path) -> Any:
    """The mel of the vocoder for the diffusion model; None where no diffusion.yaml says which."""
    from modules.config.diffusion import load_diffusion_config
    from modules.config.vocoder import find_mel

    try:
        with listening():
            return find_mel(load_diffusion_config(config_path.with_name("diffusion.yaml")).vocoder.ckpt)[0]
    except FAILURES:
        return None


def _look_at(clip: Path, config: "Config", mel: Any, state: _State) -> None:
    """One clip: what made its features, and whether training would take them."""
    from modules.data.feature_files import read_sidecar
    from modules.data.features import AbsentFeatures, FeatureRecipe, StaleFeatures, check_features, edited_files

    made = read_sidecar(clip).get("features", {})
    units, pitch = made.get("units", {}), made.get("f0", {})
    has_mel = mel is not None and "mel" in made
    state.with_mel += has_mel
    if units:
        state.made_by.setdefault("encoder", Counter())[str(units.get("encoder", ""))] += 1
    if pitch:
        state.made_by.setdefault("predictor", Counter())[str(pitch.get("predictor", ""))] += 1
        limits = [float(pitch.get(key, usual)) for key, usual in (("f0_min", F0_MIN), ("f0_max", F0_MAX))]
        state.pitch[(str(pitch.get("predictor", _DEFAULT_PREDICTOR)), *limits)] += 1
    model = config.model
    recipe = FeatureRecipe(f"{model.speech_encoder}:", "", config.audio, model.vol_embedding, unit_width=model.ssl_dim)
    try:
        check_features(clip, recipe)
        if has_mel:
            check_features(clip, FeatureRecipe(recipe.encoder, "", config.audio, mel=mel, unit_width=model.ssl_dim))
        state.usable.append(clip)
        state.edited += edited_files(clip)
    except (DataError, OSError) as error:
        kinds = {AbsentFeatures: "absent", StaleFeatures: "stale"}
        state.problems.setdefault(kinds.get(type(error), "damaged"), {})[clip] = error
    except UserError as error:  # the clip itself
        state.problems.setdefault("unreadable", {})[clip] = error


def _check_states(state: _State, config: "Config", n_clips: int) -> Iterator[Finding]:
    """How many clips lack usable features, by kind; an error where training would meet one of them."""
    from modules.config.edits import command_of

    listed = _listed(config)
    for kind, clips in state.problems.items():
        is_met = listed is None or any(clip.absolute() in listed for clip in clips)
        level, (first, error) = "error" if is_met else "warning", next(iter(clips.items()))
        text = f"{_WORDS[kind]} for {len(clips)} of {counted(n_clips, 'clip')}"
        reason = from_text(SECTION, level, kind, str(first), error).text
        text += f" (first: {printable(first)}: {reason})"
        remedy = f"Remove the clip, then: {command_of(config)}" if kind == "unreadable" else state.command
        yield Finding(SECTION, level, kind, "features", text, remedy, tuple(clips))
    if state.edited:
        text = f"not as they were made, and used all the same: {counted(len(state.edited), 'file')} "
        text += f"({shorten(state.edited)})"
        remedy = f"Delete what should be made again, then: {state.command}"
        yield Finding(SECTION, "warning", "edited", "features", text, remedy, tuple(state.edited))


def _check_makers(state: _State) -> Iterator[Finding]:
    """Units of two files of weights are of two alphabets; curves of two predictors are only worth a word."""
    encoders = {identity for identity in state.made_by.get("encoder", ())}
    if len(encoders) > 1 and len({identity.split(":")[0] for identity in encoders}) == 1:
        name = next(iter(encoders)).split(":")[0]
        text = f"units of {printable(name)} were made with {len(encoders)} files of its weights"
        yield Finding(SECTION, "warning", "mixed", "features", text, state.command)
    if len(state.made_by.get("predictor", ())) > 1:
        text = f"the pitch was found by several predictors: {_names(state.made_by['predictor'])}"
        yield Finding(SECTION, "info", "mixed", "features", text)


def _names(made_by: Counter) -> str:
    """Names of what made features, each with its number of clips where there are several."""
    found = Counter()
    for identity, count in made_by.items():
        found[printable(identity.split(":")[0], 40) or "unknown"] += count
    return listing(f"{name} ({count})" if len(found) > 1 else name for name, count in found.most_common())


def _check_orphans(source_dir: Path) -> Iterator[Finding]:
    if gone := orphans(source_dir):
        text = f"holds features of {counted(len(gone), 'clip')} no longer there ({shorten(gone)}), which are not used"
        remedy = "Delete them, or put the clips back"
        yield Finding(SECTION, "info", "orphans", printable(source_dir), text, remedy, tuple(gone))


def _check_pitch(state: _State, config: "Config", show: bool) -> Iterator[Finding]:
    """Speakers whose stored pitch the sound contradicts, each with the command for it."""
    from modules.data.features import FeatureRecipe
    from modules.data.pitch import find_doubt

    if not state.pitch:
        return
    predictor, low, high = state.pitch.most_common(1)[0][0]
    recipe = FeatureRecipe("", predictor, config.audio, f0_min=low, f0_max=high)
    by_speaker: dict[str, list[Path]] = {}
    for clip in state.usable:
        by_speaker.setdefault(speaker_of(clip), []).append(clip)
    chosen = [clip for clips in by_speaker.values() for clip in clips[:: -(-len(clips) // _LISTENED)]]
    for speaker, (text, command) in find_doubt(chosen, recipe, show).items():
        yield Finding(SECTION, "warning", "pitch", printable(speaker), text, command, tuple(by_speaker[speaker]))
    if len(chosen) < len(state.usable):
        text = f"was compared with the sound in {len(chosen)} of {len(state.usable)} clips, from all over the data set"
        yield Finding(SECTION, "info", "pitch", "pitch", text)


def _check_histograms(source_dir: Path, state: _State) -> Iterator[Finding]:
    """The file in which the notes of each speaker are counted, for -t auto."""
    from modules.data.pitch import FILE_NAME, read_histograms

    path = source_dir / FILE_NAME
    try:
        found = read_histograms(path)
    except DataError as error:
        text = from_text(SECTION, "warning", "histograms", str(path), error).text
        yield Finding(SECTION, "warning", "histograms", printable(path), text, state.command, (path,))
        return
    if lacking := sorted({speaker_of(clip) for clip in state.usable} - found.keys()):
        text = f"does not say which notes {listing(lacking, 3)} sings, which -t auto needs"
        yield Finding(SECTION, "warning", "histograms", printable(path), text, state.command)
