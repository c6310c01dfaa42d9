"""The documents agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trellis.policies import PRESETS, Jitter, Policy, Retry, WhenParentCloses, preset, specification, tuned

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
POLICIES = (ROOT / "docs" / "policies.md").read_text("utf-8")


def rows(text: str, first: str) -> dict[str, list[str]]:
    """The cells of the table whose head begins with `first`, by the word in its rows' first cell."""
    table = text.split(f"| {first} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0].strip("`"): row[1:] for row in cells}


@pytest.mark.parametrize(("kind", "head"), [(Retry, "The retry rule"), (Policy, "The order's own fields")])
def test_each_field_of_a_policy_is_documented_with_temporals_option(
    kind: type[Retry] | type[Policy], head: str
) -> None:
    """The tables name every field, what it says, and Temporal's option, in the words of the code."""
    documented = rows(POLICIES.split(head, 1)[1], "field")
    for one in specification(kind):
        if one["name"] == "name":
            continue
        option, says = documented.pop(one["name"])
        assert option.replace("`", "") == one["temporal"], one["name"]
        assert says == one["says"] + (f" [{one['unit']}]" if one["unit"] else ""), one["name"]
    assert not documented


def test_the_presets_are_documented_in_numbers() -> None:
    """Each preset's row holds the numbers that the code holds."""
    documented = rows(POLICIES, "preset")
    assert list(documented) == list(PRESETS)
    for name, (review, budget, timeout, backoff, jitter, placement, tries, other) in documented.items():
        policy = PRESETS[name]
        rule, dispatch = policy.retry, policy.retry_of("dispatch")
        assert review == f"{policy.review_window:g}, {policy.at_window_end}"
        assert budget == f"{policy.budget:g}" + (" with review" if policy.budget_counts_review else "")
        assert (float(timeout), placement, jitter) == (rule.try_timeout, rule.placement, rule.jitter)
        assert backoff == f"{rule.first_backoff:g} to {rule.max_backoff:g}"
        assert tries == (str(dispatch.max_tries) if dispatch.max_tries else "no limit")
        assert ("child run timeout" in other) == (policy.child_run_timeout is not None)
        assert (f"{policy.child_run_timeout:g} s" in other) if policy.child_run_timeout else True
        assert ("abandon" in other) == (policy.parent_close is WhenParentCloses.ABANDON)
        assert (rule.multiplier, rule.hedge, policy.dispatch_retries) == (2, 1, 2)


def test_the_examples_of_a_changed_policy_run() -> None:
    """The block of Python gives three policies that check."""
    [block] = re.findall(r"```python\n(.*?)```", POLICIES, re.DOTALL)
    made = [
        eval(line.split("#")[0], {"tuned": tuned, "preset": preset})
        for line in block.splitlines()
        if line.startswith("tuned")
    ]
    assert [one.retry_of("dispatch").max_tries for one in made] == [9, 20, 9]
    assert made[2].retry_of("charge").hedge == 2
    assert made[0].retry.jitter is Jitter.FULL


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_of_a_document_leads_to_a_file(path: Path) -> None:
    """A moved file is noticed here and not by a reader."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
