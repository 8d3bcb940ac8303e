"""An engine made of the stand-ins of `inference/fake_voice.py`."""

from inference.fake_voice import fake_converter

from modules.inference.options import ConversionOptions
from modules.realtime.engine import Engine
from modules.realtime.options import RealtimeOptions

OPTIONS = RealtimeOptions(block=0.2, crossfade=0.04, extra=0.3, gate=-60)


def make_engine(options: RealtimeOptions = OPTIONS, transpose: float = 0.0, **changes):
    """An engine, its synthesizer, and the list that calls of its networks are written to."""
    converter, synthesizer, calls = fake_converter(**changes)
    return Engine(converter.pipeline, ConversionOptions("tenor", transpose=transpose), options), synthesizer, calls
