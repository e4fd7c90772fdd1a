"""The two tables of refusals are consistent with the client protocol."""

from __future__ import annotations

import pytest

from fanout.core import errors
from fanout.core.errors import (
    BAD_REQUEST,
    CLOSE_CODES,
    PROBLEMS,
    UNAVAILABLE,
    UNSUBSCRIBE_CODES,
    CloseCode,
    FanoutError,
    OutOfRange,
    Problem,
    RecordError,
    Refused,
)

BY_CLOSE_CODE = {code.code: code for code in CLOSE_CODES}


def declared(of: type) -> list[object]:
    return [value for name, value in vars(errors).items() if isinstance(value, of) and name.isupper()]


def test_every_problem_that_is_declared_stands_in_the_table() -> None:
    assert declared(Problem) == list(PROBLEMS)


def test_every_close_and_unsubscribe_code_that_is_declared_stands_in_a_table() -> None:
    assert declared(CloseCode) == [*CLOSE_CODES, *UNSUBSCRIBE_CODES]


def test_reasons_and_codes_are_unique() -> None:
    assert len({problem.reason for problem in PROBLEMS}) == len(PROBLEMS)
    assert len(BY_CLOSE_CODE) == len(CLOSE_CODES)
    assert len({code.code for code in UNSUBSCRIBE_CODES}) == len(UNSUBSCRIBE_CODES)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.reason)
def test_a_problem_has_codes_of_the_protocol_and_of_http(problem: Problem) -> None:
    assert 100 <= problem.code <= 112 or 400 <= problem.code <= 1999
    assert 400 <= problem.http <= 599
    assert problem.close is None or problem.close in BY_CLOSE_CODE
    assert problem.reason.replace("_", "").isalpha()
    assert problem.meaning


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.reason)
def test_temporary_problems_are_server_errors_or_rates(problem: Problem) -> None:
    assert problem.temporary is ((problem.http >= 500 and problem.http != 501) or problem.http == 429)


@pytest.mark.parametrize("problem", [problem for problem in PROBLEMS if problem.close], ids=lambda p: p.reason)
def test_a_problem_that_passes_closes_so_that_the_client_comes_back(problem: Problem) -> None:
    assert problem.close is not None
    assert BY_CLOSE_CODE[problem.close].reconnect is problem.temporary


@pytest.mark.parametrize("code", CLOSE_CODES, ids=lambda code: str(code.code))
def test_close_codes_are_valid_on_the_wire(code: CloseCode) -> None:
    assert 3000 <= code.code <= 4999
    assert 0 < len(code.reason.encode()) <= 123


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        (3000, True),
        (3499, True),
        (3500, False),
        (3999, False),
        (4000, True),
        (4499, True),
        (4500, False),
        (4999, False),
    ],
)
def test_the_range_of_a_close_code_says_whether_the_client_comes_back(code: int, reconnect: bool) -> None:
    assert CloseCode(code, "", "").reconnect is reconnect


def test_unsubscribe_codes_lie_below_the_close_codes() -> None:
    assert all(2000 <= code.code < 3000 for code in UNSUBSCRIBE_CODES)


def test_a_refusal_says_what_the_table_says_unless_told_better() -> None:
    assert Refused(UNAVAILABLE).detail == UNAVAILABLE.meaning
    refused = Refused(BAD_REQUEST, "room: too long", retry_after_s=1.5)
    assert (refused.problem, refused.detail, refused.retry_after_s) == (BAD_REQUEST, "room: too long", 1.5)
    assert str(refused) == "bad_request: room: too long"


def test_a_record_error_names_its_counter() -> None:
    error = RecordError("short_header", "3 bytes")
    assert (error.reason, error.detail, str(error)) == ("short_header", "3 bytes", "short_header: 3 bytes")


def test_out_of_range_says_what_the_log_holds() -> None:
    error = OutOfRange("messages", 3, 5, 10, 20)
    assert (error.topic, error.partition, error.offset, error.earliest, error.end) == ("messages", 3, 5, 10, 20)
    assert str(error) == "messages[3] has 10..20, not 5"


def test_everything_raised_on_purpose_has_one_root_and_stands_in_the_drawing() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(issubclass(value, FanoutError) for value in raised)
    assert errors.__doc__ is not None
    assert all(value.__name__ in errors.__doc__ for value in raised)
