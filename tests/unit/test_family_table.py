"""The table of tools/families.py: what passed is counted, what did not is named."""

from __future__ import annotations

import importlib.util

REPORT = """<testsuites><testsuite timestamp="2026-11-30T05:00:00">
<testcase classname="tests.interop.test_family_conformance" name="test_gradients[phi3 longrope]"/>
<testcase classname="tests.interop.test_family_conformance" name="test_a_reward_head_both_ways[phi3 longrope]">
<skipped/></testcase>
<testcase classname="tests.interop.test_family_conformance" name="test_every_family_has_a_peer"/>
<testcase classname="tests.distributed.test_family_layouts" name="test_every_family_is_in_a_group"/>
<testcase classname="tests.distributed.test_family_layouts"
 name="test_the_first_step_is_that_of_the_reference[learned positions-opt 350m-PP2]"/>
<testcase classname="tests.distributed.test_family_layouts"
 name="test_updates_equal_one_process[learned positions-opt 350m-ppo-PP2]"/>
<testcase classname="tests.distributed.test_family_layouts"
 name="test_updates_equal_one_process[learned positions-opt 350m-ppo-Sh2]"><failure/></testcase>
</testsuite></testsuites>"""


def test_what_did_not_pass_is_named(repo_root, tmp_path):
    spec = importlib.util.spec_from_file_location("families_tool", repo_root / "tools" / "families.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in tool.make_table(tool.read_report(report)).split("\n")
    ]
    opt, phi3 = (dict(zip(rows[0], row, strict=True)) for row in rows[2:])
    assert {head: cell for head, cell in opt.items() if cell} == {
        "family": "opt 350m",
        "KL 0, ratio 1": "1",
        "PPO": "1, 1 FAILED",
    }
    assert {head: cell for head, cell in phi3.items() if cell} == {
        "family": "phi3 longrope",
        "gradients": "1",
        "reward head": "1 not run",
    }
