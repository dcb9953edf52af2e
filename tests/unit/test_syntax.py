"""The prompt's syntax. The tables are what AUTOMATIC1111 documents for its own."""

import pytest

from sd_scratch.errors import UsageError
from sd_scratch.text.changes import find_changes
from sd_scratch.text.syntax import DEEPEST, read, whole


def pieces(text: str, syntax: str = "a1111") -> list[list[tuple[str, float]]]:
    sections = read(whole(text), syntax).sections
    return [[(piece.text.text, piece.weight) for piece in section] for section in sections]


def schedule(text: str, steps: int = 10, passed: int = 0) -> list[list]:
    changes = find_changes(whole(text), passed)
    return [[end, changes.at(end, steps).text] for end in changes.ends(steps)]


A1111_WEIGHTS = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
}


@pytest.mark.parametrize("text", A1111_WEIGHTS)
def test_weights_as_a1111_documents_them(text: str) -> None:
    assert pieces(text) == [A1111_WEIGHTS[text]]


A1111_SCHEDULES = {
    "test": [[10, "test"]],
    "a [b:3]": [[3, "a "], [10, "a b"]],
    "a [b: 3]": [[3, "a "], [10, "a b"]],
    "a [[[b]]:2]": [[2, "a "], [10, "a [[b]]"]],
    "[(a:2):3]": [[3, ""], [10, "(a:2)"]],
    "a [b : c : 1] d": [[1, "a b  d"], [10, "a  c  d"]],
    "a[b:[c:d:2]:1]e": [[1, "abe"], [2, "ace"], [10, "ade"]],
    "a [unbalanced": [[10, "a [unbalanced"]],
    "a [b:.5] c": [[5, "a  c"], [10, "a b c"]],
    "a [{b|d{:.5] c": [[5, "a  c"], [10, "a {b|d{ c"]],
    "((a][:b:c [d:3]": [[3, "((a][:b:c "], [10, "((a][:b:c d"]],
    "[a|(b:1.1)]": [[i, "(b:1.1)" if i % 2 == 0 else "a"] for i in range(1, 11)],
    "[fe|]male": [[i, "male" if i % 2 == 0 else "female"] for i in range(1, 11)],
    "[fe|||]male": [[i, "female" if i % 4 == 1 else "male"] for i in range(1, 11)],
}


@pytest.mark.parametrize("text", A1111_SCHEDULES)
def test_changes_as_a1111_documents_them(text: str) -> None:
    assert schedule(text) == A1111_SCHEDULES[text]


def test_changes_go_on_in_a_second_pass_as_a1111_documents_them() -> None:
    assert schedule("a [b:.5] c", 10, passed=10) == [[10, "a b c"]]
    assert schedule("a [b:1.5] c", 10, passed=10) == [[5, "a  c"], [10, "a b c"]]
    assert schedule("a [b:1.5] c", 10) == [[10, "a  c"]]
    assert schedule("a [b:23] c", 10, passed=20) == [[3, "a  c"], [10, "a b c"]]
    assert schedule("[a|b]", 2, passed=3) == [[1, "a"], [2, "b"]]


def test_the_long_example_of_changes() -> None:
    text = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert schedule(text, 100) == [
        [25, "fantasy landscape with a mountain and an oak in foreground shoddy"],
        [50, "fantasy landscape with a lake and an oak in foreground in background shoddy"],
        [60, "fantasy landscape with a lake and an oak in foreground in background masterful"],
        [75, "fantasy landscape with a lake and an oak in background masterful"],
        [100, "fantasy landscape with a lake and a christmas tree in background masterful"],
    ]


def test_a_call_is_shown_what_a1111_shows_it() -> None:
    changes = find_changes(whole("[a:b:2]"))
    assert [changes.at_call(i, 5).text for i in range(5)] == ["a", "a", "a", "b", "b"]
    turns = find_changes(whole("[a|b]"))
    assert [turns.at_call(i, 5).text for i in range(5)] == ["a", "a", "b", "a", "b"]


def test_what_ends_before_the_first_step_is_never_shown() -> None:
    assert schedule("[a:b:0]") == [[10, "b"]]
    assert schedule("[a:b:.01]", 10) == [[10, "b"]]


@pytest.mark.parametrize(
    "text",
    [
        "a | b [c:d:.5]",  # a bar outside of brackets
        "(a|b) [c:d:.5]",
        "[a|b] | c",
        "[a):b:3]",  # a bracket that was never opened, or never closed, inside
        "[(a:b:3]",
        "[:):sad:3]",
        "[a\\:b:3)",
    ],
)
def test_what_a1111_cannot_parse_does_not_change(text: str) -> None:
    assert schedule(text) == [[10, text]]


def test_numbers_of_steps_in_all_spellings() -> None:
    spellings = {"1e1": 10, "+3": 3, "3.": 20, ".3": 6, "3.e-1": 6, "3e-1": 0, "9" * 400: 20}
    for number, last in spellings.items():
        ends = [end for end, _ in schedule(f"[a:b:{number}]", 20)]
        assert ends == sorted({last, 20} - {0}), number
    assert schedule("[a:b:-3]", 5) == schedule("[a:b:0]", 5) == [[5, "b"]]


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("a BREAK b", [[("a", 1.0)], [("b", 1.0)]]),
        ("(a BREAK b:2)", [[("a", 2.0)], [("b", 2.0)]]),
        ("BREAK a", [[], [("a", 1.0)]]),
        ("BREAKFAST, breaks", [[("BREAKFAST, breaks", 1.0)]]),
        ("a:b (c:d) (e: 1.5 )", [[("a:b ", 1.0), ("c:d", 1.1), (" ", 1.0), ("e", 1.5)]]),
        ("a) b:1.3)", [[("a) b:1.3)", 1.0)]]),
        ("a\\b", [[("ab", 1.0)]]),
        ("", [[]]),
        ("()", [[]]),
        ("(red:-0.5)", [[("red", -0.5)]]),
    ],
)
def test_breaks_and_odd_signs(text: str, sections: list) -> None:
    assert pieces(text) == sections


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("((b))", [("b", 1.1 * 1.1)]),
        (
            "((b:1.2) c:0.5)",
            [("b", 1.2), (" c", 0.5)],
        ),  # a number is the weight, whatever is around
        ("a [b] BREAK", [("a [b] BREAK", 1.0)]),
        (r"\(b\)", [("(b)", 1.0)]),
        ("a (b", [("a (b", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_weights_as_comfyui_reads_them(text: str, expected: list) -> None:
    assert pieces(text, "comfy") == [expected]


def test_plain_text_is_read_as_it_stands() -> None:
    text = "a (b:1.3) [c:d:3] BREAK AND <lora:x:1>"
    assert pieces(text, "plain") == [[(text, 1.0)]]


@pytest.mark.parametrize("syntax", ["a1111", "comfy"])
def test_every_character_knows_its_place(syntax: str) -> None:
    text = r"a ((red \(big\)) star:1.3), <lora:x:1> [blue] BREAK é(n"
    for section in read(whole(text), syntax).sections:
        for piece in section:
            for char, (start, end) in zip(*piece.text, strict=True):
                assert text[start:end] in (char, "\\" + char)


def test_networks_are_taken_out_and_named() -> None:
    reading = read(whole("a <lora:stars:0.8>b <token> c < d"), "a1111")
    assert reading.networks == ("<lora:stars:0.8>",)
    assert reading.sections[0][0].text.text == "a b <token> c < d"


def test_an_unbalanced_bracket_is_noted_once() -> None:
    (note,) = read(whole("a (b [c (d"), "a1111").notes
    assert "'(' at character 3" in note and "never closed" in note
    (note,) = read(whole("a) b]"), "a1111").notes
    assert "')' at character 2" in note and "text" in note
    (note,) = read(whole("a b:1.3) c"), "a1111").notes
    assert "')' at character 8" in note
    assert not read(whole("(a:1.2) [b]: c"), "a1111").notes
    (note,) = read(whole("a (b (c) d"), "comfy").notes
    assert "'(' at character 3" in note and "as in ComfyUI" in note
    (note,) = read(whole("a) (b)"), "comfy").notes
    assert "')' at character 2" in note
    assert not read(whole(r"(a) [b \("), "comfy").notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat AND a dog", "AND at character 7"),
        ("(" * (DEEPEST + 1), "more than 100 deep"),
        ("(a:99999)", "the weight 99999 .* beyond 10000"),
    ],
)
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(whole(text), "a1111")


def test_brackets_by_the_thousand_are_refused_at_once() -> None:
    for syntax in ("a1111", "comfy"):
        with pytest.raises(UsageError, match="100 deep"):
            read(whole("(a" * 15_000 + ")" * 15_000), syntax)
    with pytest.raises(UsageError, match="100 deep"):
        find_changes(whole("[" * 30_000))
    with pytest.raises(UsageError, match="unknown prompt syntax 'x' - use a1111, comfy, plain"):
        read(whole(""), "x")
