"""What the number of a batch says about the stream that it came in."""

from kv_cache_rl.adapters import kv_order
from kv_cache_rl.adapters.kv_order import NUMBERS, Order, Place


def taken(*numbers, content=b"a"):
    order = Order()
    for number in numbers:
        order.take(number, content)
    return order


def test_a_stream_goes_on_or_misses_some_or_repeats_itself():
    order = taken(0, 1, 2)
    assert order.place(3, b"x") is Place.NEXT
    assert order.place(7, b"x") is Place.GAP and order.ahead(7) == 4
    assert order.place(1, b"a") is Place.AGAIN


def test_a_process_that_counts_from_zero_again_is_another_one():
    order = taken(5, 6, 7)
    assert order.place(0, b"x") is Place.ANEW
    assert order.place(6, b"other content") is Place.ANEW
    order.begin()
    assert order.place(0, b"x") is Place.NEXT and not order.same(6, b"a")


def test_numbers_that_wrap_around_go_on():
    order = taken(NUMBERS - 2, NUMBERS - 1)
    assert order.expected == 0
    assert order.place(0, b"x") is Place.NEXT
    assert order.place(2, b"x") is Place.GAP and order.ahead(2) == 2
    assert taken(NUMBERS - 2).place(1, b"x") is Place.GAP


def test_the_first_batch_tells_how_many_came_before_it():
    assert Order().place(0, b"x") is Place.NEXT
    assert Order().place(9, b"x") is Place.GAP and Order().ahead(9) == 9


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(kv_order, "REMEMBERED", 3)
    order = taken(0, 1, 2, 3, 4)
    assert not order.same(1, b"a") and order.same(2, b"a")
