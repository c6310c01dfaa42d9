"""A wire finds the end of each answer, however the bytes are cut into chunks."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest

from trellis.chaos.answers import Answers, GrpcAnswers, PostgresCommits
from trellis.db.writing import writers_among

STARTUP = struct.pack("!ii", 8, 196608)
READY = b"I"
IN_TRANSACTION = b"T"


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


def prepared(name: str, text: str) -> bytes:
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0") + bound(name)


def bound(name: str) -> bytes:
    return message(b"B", b"\0" + name.encode() + b"\0\0\0\0\0\0\0") + message(b"E", b"\0\0\0\0\0") + message(b"S")


def done(tag: str, status: bytes = READY) -> bytes:
    return message(b"C", tag.encode() + b"\0") + message(b"Z", status)


class Session:
    """A connection of a client. What it says and hears goes through `answers`, in chunks of `size` bytes."""

    def __init__(self, answers: Answers, size: int) -> None:
        self.answers = answers
        self.size = size

    def _chunks(self, data: bytes) -> Iterable[bytes]:
        return (data[at : at + self.size] for at in range(0, len(data), self.size))

    def exchange(self, asked: bytes, answered: bytes) -> int:
        """How many commits that wrote ended in this answer. Everything is passed on by its end."""
        for chunk in self._chunks(asked):
            self.answers.asked(chunk)
        passed, commits = b"", 0
        for chunk in self._chunks(answered):
            for part, ends in self.answers.answered(chunk):
                passed += part
                commits += ends
        assert passed == answered
        return commits


@pytest.fixture(params=[1, 7, 65536])
def session(request: pytest.FixtureRequest) -> Session:
    session = Session(PostgresCommits({"record_charge", "provider.charge"}), request.param)
    assert session.exchange(STARTUP, message(b"R", b"\0\0\0\0") + message(b"Z", READY)) == 0
    return session


def test_a_statement_that_writes_ends_in_a_commit(session: Session) -> None:
    """INSERT, UPDATE, DELETE and a call of a writing function count; reading does not."""
    assert session.exchange(query("INSERT INTO orders VALUES (1)"), done("INSERT 0 1")) == 1
    assert session.exchange(query("select 1"), done("SELECT 1")) == 0
    assert session.exchange(prepared("a", "SELECT * FROM record_charge($1)"), done("SELECT 1")) == 1
    assert session.exchange(prepared("b", "SELECT provider.charge($1, $2, $3)"), done("SELECT 1")) == 1
    assert session.exchange(prepared("c", "SELECT * FROM orders WHERE id = $1 FOR UPDATE"), done("SELECT 1")) == 0
    # A statement that was prepared before is named only.
    assert session.exchange(bound("a"), done("SELECT 1")) == 1
    assert session.exchange(bound("c"), done("SELECT 1")) == 0


def test_a_transaction_commits_at_its_end(session: Session) -> None:
    """What it wrote counts once, at COMMIT; after ROLLBACK, and in a transaction that only reads, nothing counts."""
    for end, commits in (("COMMIT", 1), ("ROLLBACK", 0)):
        assert session.exchange(query("BEGIN"), done("BEGIN", IN_TRANSACTION)) == 0
        assert session.exchange(query("UPDATE orders SET state = 'x'"), done("UPDATE 1", IN_TRANSACTION)) == 0
        assert session.exchange(query("SELECT 1"), done("SELECT 1", IN_TRANSACTION)) == 0
        assert session.exchange(query(end), done(end)) == commits
    assert session.exchange(query("BEGIN"), done("BEGIN", IN_TRANSACTION)) == 0
    assert session.exchange(query("COMMIT"), done("COMMIT")) == 0


def test_a_statement_that_failed_is_no_commit(session: Session) -> None:
    """The next one counts again."""
    failed = message(b"E", b"SERROR\0\0") + message(b"Z", READY)
    assert session.exchange(query("INSERT INTO orders VALUES (1)"), failed) == 0
    assert session.exchange(query("INSERT INTO orders VALUES (2)"), done("INSERT 0 1")) == 1


def test_questions_that_are_sent_ahead_keep_their_order(session: Session) -> None:
    """In a pipeline the write is the second of three exchanges, and its answer is the second one that ends."""
    asked = query("SELECT 1") + query("DELETE FROM orders") + query("SELECT 2")
    for chunk in (asked,):
        session.answers.asked(chunk)
    ends = [end for _, end in session.answers.answered(done("SELECT 1") + done("DELETE 1") + done("SELECT 1"))]
    assert [end for end in ends if end] == [True]
    assert ends[-1] is False


def test_an_answer_that_may_be_lost_is_held_back_whole() -> None:
    """Nothing of it is passed on before it is known whether it ends in a commit; notifications do not wait."""
    answers = PostgresCommits()
    answers.asked(STARTUP)
    assert list(answers.answered(message(b"Z", READY)))
    answers.asked(query("INSERT INTO orders VALUES (1) RETURNING id"))
    assert list(answers.answered(message(b"T", b"row") + message(b"D", b"1"))) == []
    assert list(answers.answered(done("INSERT 0 1"))) == [
        (message(b"T", b"row") + message(b"D", b"1") + done("INSERT 0 1"), True)
    ]
    assert list(answers.answered(message(b"A", b"news"))) == [(message(b"A", b"news"), False)]


def test_the_question_for_encryption_is_no_message() -> None:
    """A client may ask twice before its session begins; the server answers with one byte each time."""
    answers = PostgresCommits()
    for code in (80877104, 80877103):
        answers.asked(struct.pack("!ii", 8, code))
        assert list(answers.answered(b"N")) == [(b"N", False)]
    answers.asked(STARTUP + query("DELETE FROM orders"))
    assert [end for _, end in answers.answered(message(b"Z", READY) + done("DELETE 1"))] == [False, True]


@pytest.mark.parametrize("size", [1, 5, 65536])
def test_an_answer_of_grpc_begins_with_headers(size: int) -> None:
    """The first HEADERS frame of a stream counts; trailers, data and settings do not."""

    def frame(kind: int, stream: int, flags: int = 0, body: bytes = b"body") -> bytes:
        return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body

    settings, data, headers = 4, 0, 1
    sent = (
        frame(settings, 0)
        + frame(headers, 1) + frame(data, 1) + frame(headers, 1, flags=1)
        + frame(headers, 3, flags=1)
        + frame(headers, 5) + frame(data, 5, flags=1)
    )  # fmt: skip
    assert Session(GrpcAnswers(), size).exchange(b"PRI * HTTP/2.0", sent) == 3


def test_a_function_that_calls_a_writing_one_writes() -> None:
    """Names are whole words, and a function that only mentions a table does not write."""
    assert writers_among({
        "add_event": "INSERT INTO events VALUES (1)",
        "move_order": "PERFORM add_event(1)",
        "close": "BEGIN UPDATE orders o SET state = 'x'; END",
        "count_events": "SELECT count(*) FROM events",
        "claim": "SELECT status FROM orders FOR UPDATE",
        "moved": "SELECT remove_order(1)",
    }) == {"add_event", "move_order", "close"}  # fmt: skip
