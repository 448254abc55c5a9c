"""junit.xml: a test case for the verdict, each gate, each finding and each missing evaluation, for CI to show."""

from __future__ import annotations

import re
from typing import Any

from trustsnn.canonical import canonical_json
from trustsnn.reports.record import Json, Record
from trustsnn.reports.wording import bound_text, measured, threat_text

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(record: Record, summary: Json) -> str:
    """The summary as JUnit XML, without times.

    A gate that does not hold is a failure, one that doubt leaves open an error. A finding on an evaluation that cannot be
    trusted, and an evaluation that is missing, are errors: nothing was measured that could be called a failure.
    """
    from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

    def case(group: str, name: str, *results: Any, output: str = "") -> TestCase:
        test = TestCase(_text(name), classname=f"trustsnn.{group}")
        test.result = list(results)
        if output:
            test.system_out = _text(output)
        return test

    verdict = summary["verdict"]
    kind = {"pass": None, "fail": Failure, "inconclusive": Error}[verdict]
    cases = [
        case("verdict", "verdict", *([kind(_text(summary["sentence"]), verdict)] if kind else []), output=summary["sentence"])
    ]
    for gate in summary["gates"]:
        text = f"measured {measured(gate['value'], gate['bound'])}, bound {bound_text(gate['bound'])}"
        result = Failure if gate["decided"] else Error
        cases.append(case("gate", gate["gate"], *([] if gate["holds"] else [result(text, "gate")]), output=text))

    status = {line["key"]: line["status"] for line in summary["cells"]}
    for finding in summary["findings"]:
        key = finding["cell"]
        name = f"{finding['type']} ({threat_text(record.plan[key]['threat'])}, cell {key[:12]})"
        evidence = canonical_json({name: finding[name] for name in ("evidence", "threshold", "source")})
        results = [] if status[key] == "ok" else [Error(_text(finding["message"]), _text(finding["type"]))]
        cases.append(case("finding", name, *results, output=f"{finding['message']}\n{evidence}"))
    for key in record.missing:
        name = f"{threat_text(record.plan[key]['threat'])}, cell {key[:12]}"
        cases.append(case("missing", name, Error("This evaluation was planned and has not finished.", "missing")))

    suite = TestSuite("trustsnn audit")
    suite.add_testcases(cases)
    xml = JUnitXml("trustsnn")
    xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    text = xml.tostring()  # type: ignore[no-untyped-call]
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)


def _text(value: object) -> str:
    """`value` without the control characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", str(value))
