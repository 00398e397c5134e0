from agent.lab.arp import Seen
from tests.bench.claims import answered_by_two, silent_for


def claims(*pairs: tuple[float, str]) -> list[Seen]:
    return [Seen(at, "eth0", "reply", "10.0.0.1", f"mac-{node}", node, False, False) for at, node in pairs]


def test_a_move_and_a_move_back_are_not_two_holders() -> None:
    there = [(n * 0.002, "a") for n in range(5)]
    back = [(0.5 + n * 0.002, "b") for n in range(5)]
    again = [(1.0 + n * 0.002, "a") for n in range(5)]
    assert answered_by_two(claims(*there, *back, *again)) == (0.0, 0)


def test_two_that_answer_the_same_questions_are() -> None:
    both = [(n * 0.002 + shift, node) for n in range(50) for shift, node in ((0.0, "a"), (0.0003, "b"))]
    seconds, count = answered_by_two(claims(*both))
    assert 0.09 < seconds < 0.1
    assert count == 98


def test_one_late_claim_of_the_old_holder_counts() -> None:
    frames = claims((0.0, "a"), (0.4, "b"), (0.402, "b"), (0.4035, "a"), (0.404, "b"))
    assert answered_by_two(frames)[1] == 1
    assert silent_for(frames, "a", 0.0) == 0.4
