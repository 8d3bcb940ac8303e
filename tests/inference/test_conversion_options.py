"""Every value of a request is checked once, and the message names its flag."""

import dataclasses
import math

import pytest

from modules.errors import UsageError
from modules.inference.arguments import conversion_arguments
from modules.inference.options import ConversionOptions, make_options


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"transpose": 100}, "-t/"),
        ({"noise_scale": -0.1}, "-ns/"),
        ({"noise_scale": math.nan}, "-ns/"),
        ({"slice_db": 40}, "-sd/"),
        ({"pad_seconds": -1}, "-p/"),
        ({"pad_seconds": math.inf}, "-p/"),
        ({"clip_seconds": -5}, "-cl/"),
        ({"clip_seconds": 0.01}, "-cl/"),
        ({"overlap_seconds": -1}, "-lg/"),
        ({"clip_seconds": 2, "overlap_seconds": 2}, "-lg/.*shorter than the chunks"),
        ({"overlap_retain": 0}, "-lgr/"),
        ({"overlap_retain": 1.1}, "-lgr/"),
        ({"loudness_ratio": 2}, "-lea/"),
        ({"output_format": "wma"}, "wma"),
        ({"output_format": ""}, "format"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_flag(changes, flag):
    with pytest.raises(UsageError, match=flag):
        ConversionOptions("alto", **changes)


def test_the_defaults_are_upstreams():
    options = ConversionOptions("alto")
    assert (options.noise_scale, options.slice_db, options.pad_seconds) == (0.4, -40, 0.5)
    assert (options.overlap_retain, options.loudness_ratio, options.output_format) == (0.75, 1, "flac")


def test_options_do_not_change_after_the_check():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConversionOptions("alto").transpose = 3


@pytest.mark.parametrize(("flags", "given"), [([], 12), (["-eh"], 7), (["-shd"], 7), (["-od"], 7)])
def test_a_formant_key_without_a_vocoder_that_sings_it_changes_nothing(flags, given):
    args = conversion_arguments("x", "").parse_args([*flags, "--formant_key", "5"])
    assert make_options(args, "alto", 12).voice_transpose == given
    args.formant_key = 30.0
    with pytest.raises(UsageError, match="formant_key is 30"):
        make_options(args, "alto", 12)
