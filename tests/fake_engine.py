"""An engine made of the stand-ins of `inference/fake_voice.py`."""

from inference.fake_voice import fake_converter

from modules.inference.options import ConversionOptions
from modules.realtime.engine import Engine
from modules.realtime.options import RealtimeOptions

OPTIONS = RealtimeOptions(block=0.2, crossfade=0.04, extra=0.3, gate=-60)
TENOR = ConversionOptions("tenor")


def make_engine(options: RealtimeOptions = OPTIONS, conversion: ConversionOptions = TENOR, **changes):
    """An engine, its synthesizer, and the list that calls of its networks are written to."""
    converter, synthesizer, calls = fake_converter(**changes)
    return Engine(converter.pipeline, conversion, options), synthesizer, calls
