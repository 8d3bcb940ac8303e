"""What is found is one line each, and what lower layers warn of is a finding too."""

import logging

from modules.doctor.findings import Finding, by_weight, collected_warnings


def test_a_finding_is_one_line_with_its_remedy():
    finding = Finding("clips", "warning", "noise", "al\x1bto", "is noisy", "Record again")
    assert str(finding) == r"al\x1bto: is noisy. Record again"
    assert str(Finding("clips", "info", "amount", "", "5 min")) == "5 min"


def test_errors_come_first_and_the_order_stays_within_a_level():
    levels = ["info", "warning", "error", "warning", "error"]
    findings = [Finding("clips", level, str(index), "", "") for index, level in enumerate(levels)]
    assert [finding.kind for finding in by_weight(findings)] == ["2", "4", "1", "3", "0"]


def test_what_our_modules_warn_of_is_collected_and_not_shown(caplog):
    ours = logging.getLogger("modules.data.filelist")
    with collected_warnings("clips") as findings:
        ours.warning("%s: left\nout", "a.wav")
        ours.info("a fact")
    assert [(finding.section, finding.level, str(finding)) for finding in findings] == [
        ("clips", "warning", r"a.wav: left\nout")
    ]
    assert not caplog.records, "the console has it as a finding"
    ours.warning("afterwards")
    assert len(findings) == 1 and len(caplog.records) == 1
