"""A change of workflow code is put under `workflow.patched`, in the smallest place that differs."""

from __future__ import annotations

import ast
import difflib

import pytest

from trellis.replay.check.patching import CannotPatch, Patch, inserted

OLD = '''"""A module."""

from __future__ import annotations

from temporalio import workflow

LIMIT = 3


@workflow.defn
class W:
    def price(self, n):
        return n * 2

    @workflow.run
    async def run(self, n):
        """What it does."""
        await call("reserve", n)
        await call("charge", n)
        while n < 5:
            n += 1
            await call("remind", """two
  lines""")
        if n > LIMIT:
            await call("big", self.price(n))
        elif n > 2:
            await call("middle")
        try:
            await call("pack")
            await call("ship")
        except ValueError:
            await call("apologise")
        return n

    @workflow.query
    def state(self):
        return 1
'''


def added(new: str) -> list[str]:
    """The lines that the patch adds to the new source, and those that it moves, without their indent."""
    text = Patch(OLD, new, "p").text
    compile(text, "patched", "exec")
    diff = difflib.ndiff(new.splitlines(), text.splitlines())
    return [line[2:].strip() for line in diff if line.startswith("+ ")]


def edited(old: str, new: str) -> str:
    assert OLD.count(old) == 1
    return OLD.replace(old, new)


def test_an_inserted_statement_runs_only_with_the_patch() -> None:
    """The old histories do not have it."""
    new = edited(
        '        await call("charge", n)\n', '        await call("check", n)\n        await call("charge", n)\n'
    )
    assert added(new) == ['if workflow.patched("p"):', 'await call("check", n)']


def test_a_deleted_statement_runs_only_without_the_patch() -> None:
    """The old histories have it."""
    new = edited('            await call("apologise")\n', "            pass\n")
    assert added(new) == ['if workflow.patched("p"):', "pass", "else:", 'await call("apologise")']
    new = edited('        await call("charge", n)\n', "")
    assert added(new) == ['if not workflow.patched("p"):', 'await call("charge", n)']


def test_a_moved_statement_stands_at_both_places() -> None:
    """At its new place with the patch, at its old one without."""
    both = '        await call("reserve", n)\n        await call("charge", n)\n'
    new = edited(both, "".join(reversed(both.splitlines(keepends=True))))
    assert added(new)[0] == 'if workflow.patched("p"):'
    assert 'if not workflow.patched("p"):' in added(new)


def test_only_the_innermost_block_that_differs_is_put_under_the_patch() -> None:
    """The `try` around it stays as it is."""
    new = edited('            await call("ship")\n', '            await call("send")\n')
    assert added(new) == ['if workflow.patched("p"):', 'await call("send")', "else:", 'await call("ship")']


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("n < 5:", "n < 6:", "while (n < 6 if workflow.patched('p') else n < 5):"),
        ("if n > LIMIT:", "if n >= LIMIT:", "if (n >= LIMIT if workflow.patched('p') else n > LIMIT):"),
        ("elif n > 2:", "elif n > 1:", "elif (n > 1 if workflow.patched('p') else n > 2):"),
    ],
)
def test_of_another_condition_only_the_condition_is_patched(old: str, new: str, line: str) -> None:
    """The block below it is not written twice."""
    assert added(edited(old, new)) == [line]


def test_a_text_of_several_lines_keeps_its_words() -> None:
    """A statement is indented when it goes under the patch; what stands inside a text is not."""
    new = edited('            await call("remind"', '            await call("warn"')
    texts = [
        node.value
        for node in ast.walk(ast.parse(Patch(OLD, new, "p").text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "two" in node.value
    ]
    assert texts == ["two\n  lines", "two\n  lines"]


def test_what_the_old_code_still_needs_is_kept() -> None:
    """The old statement calls a method and reads a constant that the new source no longer has."""
    new = edited("    def price(self, n):\n        return n * 2\n\n", "").replace("LIMIT = 3\n", "")
    new = new.replace('        if n > LIMIT:\n            await call("big", self.price(n))\n        elif', "        if")
    names = {node.name for node in ast.walk(ast.parse(Patch(OLD, new, "p").text)) if isinstance(node, ast.FunctionDef)}
    assert "price" in names
    assert "LIMIT = 3" in added(new)


def test_the_import_of_workflow_is_added_where_it_is_missing() -> None:
    """A module of helpers need not have it."""
    old = 'from __future__ import annotations\n\n\nasync def f(call):\n    await call("a")\n'
    text = Patch(old, old.replace('"a"', '"b"'), "p").text
    assert text.splitlines()[1] == "from temporalio import workflow"


def test_queries_are_left_alone() -> None:
    """A query changes nothing, so it needs no patch, and may not ask for one."""
    with pytest.raises(CannotPatch, match="no statement"):
        Patch(OLD, edited("        return 1\n", "        return 2\n"), "p")


def test_files_of_activities_are_left_alone() -> None:
    """`workflow.patched` works in workflow code only."""
    old = "from temporalio import activity\n\n\n@activity.defn\nasync def a():\n    b()\n\n\ndef b():\n    print(1)\n"
    with pytest.raises(CannotPatch, match="activities"):
        Patch(old, old.replace("print(1)", "print(2)"), "p")


def test_another_signature_cannot_be_patched() -> None:
    """No patch keeps two signatures apart. The sentence says which function it is."""
    with pytest.raises(CannotPatch, match=r"signature of W\.run changed"):
        Patch(OLD, edited("async def run(self, n)", "async def run(self, n, m=1)"), "p")


def test_a_comment_or_docstring_is_no_change() -> None:
    """They ask for nothing."""
    with pytest.raises(CannotPatch):
        Patch(OLD, edited('"""What it does."""', '"""Something else."""  # why'), "p")


def test_one_line_can_be_put_under_a_patch_without_the_old_source() -> None:
    """The innermost statement on that line."""
    line = OLD.splitlines().index('            await call("ship")') + 1
    text = inserted(OLD, line, "q").splitlines()
    assert text[line - 1 : line + 1] == [
        '            if workflow.patched("q"):',
        '                await call("ship")',
    ]
