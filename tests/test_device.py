"""What is set of the process that computes."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from modules.device import keep_freed_memory
if {kept}:
    keep_freed_memory()
def faults():
    for _ in range(20):
        torch.empty(12_000_000).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(12_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system counts pages")
def test_large_tensors_take_the_pages_of_earlier_ones():
    def pages(kept: bool) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT.format(kept=kept)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    given_back = pages(False)
    if given_back < 10_000:
        pytest.skip("this C library gives nothing back")
    assert pages(True) < given_back / 10
