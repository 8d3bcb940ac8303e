"""What is found is one line each, the worst first."""

from modules.doctor.findings import Finding, by_weight


def test_a_finding_is_one_line_with_its_remedy():
    finding = Finding("clips", "warning", "noise", "al\x1bto", "is noisy", "Record again")
    assert str(finding) == r"al\x1bto: is noisy. Record again"
    assert str(Finding("clips", "info", "amount", "", "5 min")) == "5 min"


def test_errors_come_first_and_the_order_stays_within_a_level():
    levels = ["info", "warning", "error", "warning", "error"]
    findings = [Finding("clips", level, str(index), "", "") for index, level in enumerate(levels)]
    assert [finding.kind for finding in by_weight(findings)] == ["2", "4", "1", "3", "0"]
