import html
import itertools
import random
from pathlib import Path

import ftfy
import pytest

from sd_scratch.text.cleaning import clean
from sd_scratch.text.encoding import Encoding, Token
from sd_scratch.text.tokenizer import CACHED_WORDS, LONGEST_CACHED, Tokenizer, merge_symbols
from sd_scratch.text.vocabulary import END, START, number_tokens

CLIP = Tokenizer.clip()
START_ID, END_ID = 49406, 49407


def spans(text: str, tokenizer: Tokenizer = CLIP) -> list[tuple[str, str]]:
    """The tokens of a text as the model reads them, each with what was written."""
    return [(token.text, text[token.start : token.end]) for token in tokenizer.encode(text).tokens]


def words(text: str) -> list[str]:
    return [word.text for word in CLIP.encode(text).words]


class TestIds:
    def test_astronaut(self) -> None:
        encoding = CLIP.encode("a photograph of an astronaut riding a horse")
        middle = (320, 8853, 539, 550, 18376, 6765, 320, 4558)
        assert encoding.ids == (START_ID, *middle, *[END_ID] * 68)
        assert tuple(token.id for token in encoding.tokens) == middle
        assert (encoding.cut, encoding.dropped, encoding.notes) == ("", 0, ())

    @pytest.mark.parametrize("text", ["", " ", "\n\t \u3000"])
    def test_nothing_to_say(self, text: str) -> None:
        encoding = CLIP.encode(text)
        assert encoding.ids == (START_ID, *[END_ID] * 76)
        assert encoding.tokens == encoding.words == ()

    def test_shipped_vocabulary(self) -> None:
        assert len(CLIP.vocab) == CLIP.vocab_size == 49408
        assert (CLIP.vocab[START], CLIP.vocab[END]) == (START_ID, END_ID)
        assert CLIP.vocab["!"] == 0
        assert CLIP.vocab["!</w>"] == 256
        assert CLIP.vocab["in"] == 512

    def test_loaded_once(self) -> None:
        assert Tokenizer.clip() is CLIP

    def test_cleaning_is_a_choice(self) -> None:
        plain = Tokenizer.clip(77, "transformers")
        assert spans("“x”") == [('"', "“"), ("x", "x"), ('"', "”")]
        assert [written for _, written in spans("“x”", plain)] == ["“", "“", "x", "”", "”"]
        assert spans("x &lt; y")[1] == ("<", "&lt;")
        assert [text for text, _ in spans("x &lt; y", plain)] == ["x", "&", "lt", ";", "y"]


class TestCut:
    def test_exact_fit(self) -> None:
        encoding = CLIP.encode("cat " * 75)
        assert (len(encoding.tokens), encoding.cut, encoding.notes) == (75, "", ())
        assert encoding.ids[-1] == END_ID
        assert encoding.ids[-2] != END_ID

    def test_one_too_many(self) -> None:
        encoding = CLIP.encode("cat " * 75 + "Dog, ")
        assert encoding.ids == CLIP.encode("cat " * 75).ids
        assert (encoding.cut, encoding.dropped) == ("Dog, ", 2)
        assert encoding.notes == ("77 tokens, the last 2 are ignored: 'Dog, '",)

    def test_long_cut_is_shortened_in_the_note_alone(self) -> None:
        encoding = CLIP.encode("cat " * 200)
        assert encoding.cut == "cat " * 125
        assert encoding.dropped == 125
        assert encoding.notes[0].endswith("...'")
        assert len(encoding.notes[0]) < 120

    def test_other_length(self) -> None:
        encoding = Tokenizer.clip(5).encode("a large red star")
        assert [token.text for token in encoding.tokens] == ["a", "large", "red"]
        assert (len(encoding.ids), encoding.ids[-1], encoding.cut) == (5, END_ID, "star")

    def test_cut_inside_a_character(self) -> None:
        """The text that is reported begins with the character of which a part is gone."""
        assert len(CLIP.encode("ꜟ").tokens) > 1
        encoding = Tokenizer.clip(3).encode("ꜟ")
        assert (len(encoding.tokens), encoding.cut) == (1, "ꜟ")


class TestSpans:
    def test_ascii(self) -> None:
        rng = random.Random(0)
        signs = (
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \t\n.,!?'\"-_#%()&;<"
        )
        for _ in range(300):
            text = "".join(rng.choice(signs) for _ in range(rng.randrange(60)))
            for token, written in spans(text):
                assert written.lower() == token

    @pytest.mark.parametrize("cleaning", ["openai", "transformers"])
    def test_monotone_and_inside(self, cleaning: str) -> None:
        rng = random.Random(1)
        pieces = [
            *("aB", "é", "İ", "ﬁ", "½", "你", "🙂", "\u200d", "ﷺ", "“", "’", "ｆ"),
            " ",
            "e\u0301",
            "&amp;",
            "&lt",
            "â€œ",
            "\r\n",
        ]
        tokenizer = Tokenizer.clip(1000, cleaning)
        for _ in range(300):
            text = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 30)))
            last = (0, 0)
            for token in tokenizer.encode(text).tokens:
                assert 0 <= token.start < token.end <= len(text)
                assert token.start >= last[0]
                assert token.end >= last[1]
                last = token.start, token.end

    def test_lower_case_that_is_longer(self) -> None:
        """The lower case of İ is two characters; what follows stays in its place."""
        text = "İİ CAT"
        assert spans(text)[-1] == ("cat", "CAT")
        assert {written for _, written in spans(text)[:-1]} <= {"İ", "İİ"}

    @pytest.mark.parametrize(
        ("text", "token", "written"),
        [
            ("a “cat” here", "cat", "cat"),
            ("a ﬁsh tank", "fish", "ﬁsh"),
            ("ＦＵＬＬ cat", "full", "ＦＵＬＬ"),
            ("Tom &amp; Jerry", "&", "&amp;"),
            ("Tom &amp;amp; Jerry", "jerry", "Jerry"),
            ("a cafe\u0301 there", "café", "cafe\u0301"),
            ("cafÃ© â€œcatâ€\x9d", "café", "cafÃ©"),
            ("cafÃ© â€œcatâ€\x9d", "cat", "cat"),
            ("\n  a \t\t cat", "cat", "cat"),
            ("a\x07cat", "cat", "cat"),
        ],
    )
    def test_through_cleaning(self, text: str, token: str, written: str) -> None:
        assert (token, written) in spans(text)

    def test_long_changed_text_is_not_one_stretch(self) -> None:
        text = "“cat” " * 1000
        tokens = Tokenizer.clip(10_000).encode(text).tokens
        assert max(token.end - token.start for token in tokens) == 3
        assert tokens[-2].text == "cat"
        assert tokens[-2].start == len(text) - 5

    def test_tokens_of_one_character_share_its_span(self) -> None:
        encoding = CLIP.encode("a ꜟ b")
        parts = encoding.tokens[1:-1]
        assert len(parts) > 1
        assert {(token.start, token.end) for token in parts} == {(2, 3)}

    def test_special_token(self) -> None:
        text = "a <|endoftext|> b"
        token = CLIP.encode(text).tokens[1]
        assert (token.id, text[token.start : token.end]) == (END_ID, "<|endoftext|>")


class TestCleaning:
    @pytest.mark.parametrize("text", ["“a” &amp;amp; ﬁ", "â€œ x <b> &lt;", "e\u0301İΣ ΑΣ", "plain"])
    def test_is_the_cleaning_of_the_whole(self, text: str) -> None:
        cleaned = clean(text, "openai")
        assert cleaned.text == html.unescape(html.unescape(ftfy.fix_text(text))).lower()
        assert len(cleaned.spans) == len(cleaned.text)

    def test_ascii_needs_no_repair(self) -> None:
        """What `clean` does not hand to ftfy, ftfy would leave alone but for line ends."""
        rng = random.Random(2)
        signs = [chr(code) for code in (10, *range(32, 127)) if chr(code) != "&"]
        for _ in range(200):
            text = "".join(rng.choice(signs) for _ in range(50))
            assert ftfy.fix_text(text) == text


class TestWords:
    def test_case_and_punctuation(self) -> None:
        found = words('A CAT, a "Cat"; (cat)! catamaran')
        assert found == ["A", "CAT", "a", "Cat", "cat", "catamaran"]

    def test_positions(self) -> None:
        encoding = CLIP.encode("a catamaran, a cat and a CAT")
        cats = [word for word in encoding.words if word.text.lower() == "cat"]
        assert [encoding.text[word.start : word.end] for word in cats] == ["cat", "CAT"]
        assert len({word.positions for word in cats}) == 2
        for word in cats:
            assert [CLIP.decode([encoding.ids[p]]) for p in word.positions] == ["cat"]

    def test_word_of_several_tokens(self) -> None:
        encoding = CLIP.encode("the Xylophonist3d plays")
        word = encoding.words[1]
        assert word.text == "Xylophonist3d"
        assert len(word.tokens) > 2
        assert "".join(encoding.tokens[i].text for i in word.tokens) == "xylophonist3d"
        assert word.positions == tuple(i + 1 for i in word.tokens)

    def test_possessive(self) -> None:
        assert words("the cat's tail") == ["the", "cat", "'s", "tail"]

    def test_other_scripts(self) -> None:
        found = ["हिन्दी", "में", "一只猫", "שלום", "café", "cafe\u0301"]
        assert words("हिन्दी में 一只猫 שלום, café cafe\u0301") == found

    def test_emoji(self) -> None:
        assert words("a 👩\u200d🚀, 👍🏽! I ❤️ NY") == ["a", "👩\u200d🚀", "👍🏽", "I", "❤️", "NY"]

    def test_what_shares_a_token_is_one_word(self) -> None:
        token = Token(7, "x", 0, 5)
        encoding = Encoding((0, 7, 8, 1), (token, Token(8, "y", 5, 7)), "a b-c d")
        assert [(word.text, word.tokens) for word in encoding.words] == [
            ("a b-c", (0,)),
            (" d", (1,)),
        ]

    def test_cut_words_are_absent(self) -> None:
        encoding = CLIP.encode("cat " * 75 + "dog")
        assert len(encoding.words) == 75
        assert "dog" not in {word.text for word in encoding.words}

    def test_a_word_cut_in_the_middle_keeps_its_text(self) -> None:
        whole = CLIP.encode("a xylophonist").words[1]
        assert len(whole.tokens) > 1
        assert Tokenizer.clip(4).encode("a xylophonist").words[1] == whole._replace(
            tokens=(1,), positions=(2,)
        )

    def test_disjoint_and_whole(self) -> None:
        rng = random.Random(3)
        pieces = [
            "cat",
            "Don't",
            "“x”",
            "&lt;b",
            "...",
            "İ",
            "🙂🙂!",
            "3d",
            "ｗ",
            " ",
            " ",
            "e\u0301",
        ]
        for _ in range(200):
            text = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 20)))
            encoding = CLIP.encode(text)
            seen = [index for word in encoding.words for index in word.tokens]
            assert seen == sorted(set(seen))
            for word in encoding.words:
                for index in word.tokens:
                    token = encoding.tokens[index]
                    assert word.start <= token.start < token.end <= word.end
                assert word.text == text[word.start : word.end]


class TestNotes:
    def test_control_characters(self) -> None:
        encoding = CLIP.encode("red\x07star\x1b")
        assert encoding.ids == CLIP.encode("red star").ids
        assert encoding.notes == ("control characters in the prompt are read as spaces",)

    @pytest.mark.parametrize("cleaning", ["openai", "transformers"])
    def test_special_tokens(self, cleaning: str) -> None:
        encoding = Tokenizer.clip(77, cleaning).encode("<|startoftext|>a<|endoftext|><|endoftext|>")
        assert encoding.ids[:5] == (START_ID, START_ID, 320, END_ID, END_ID)
        assert len(encoding.notes) == 1
        assert END in encoding.notes[0]


class TestDecode:
    @pytest.mark.parametrize("text", ["a large red star", "café 🙂 你 ꜟ", "a , b ' 2 0", ""])
    def test_round_trip(self, text: str) -> None:
        assert CLIP.decode(CLIP.encode(text).ids) == text

    def test_part_of_a_character(self) -> None:
        assert CLIP.decode([CLIP.encode("ꜟ").tokens[0].id]) == "\N{REPLACEMENT CHARACTER}"


class TestMerging:
    def test_lowest_rank_first_then_leftmost(self) -> None:
        ranks = {("a", "a"): 1, ("b", "c"): 0, ("a", "bc"): 2}
        assert merge_symbols(list("aaabc"), ranks) == ["aa", "abc"]
        assert merge_symbols(list("aaaa"), ranks) == ["aa", "aa"]
        assert merge_symbols(["z"], ranks) == ["z"]

    def test_as_the_plain_algorithm(self) -> None:
        def plain(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
            while True:
                pairs = [pair for pair in itertools.pairwise(symbols) if pair in ranks]
                if not pairs:
                    return symbols
                best, joined = min(pairs, key=ranks.__getitem__), []
                while symbols:
                    width = 2 if tuple(symbols[:2]) == best else 1
                    joined.append("".join(symbols[:width]))
                    symbols = symbols[width:]
                symbols = joined

        ranks = {pair: rank for rank, pair in enumerate(CLIP.merges)}
        rng = random.Random(4)
        for _ in range(500):
            letters = [rng.choice("aeinorst") for _ in range(rng.randrange(1, 40))]
            letters[-1] += "</w>"
            assert merge_symbols(letters, ranks) == plain(letters, ranks)

    def test_cache_is_bounded(self) -> None:
        tokenizer = Tokenizer(CLIP.vocab, CLIP.merges)
        first = tokenizer.encode("cat a0 xyz")
        for start in range(0, 5000, 50):
            tokenizer.encode(" ".join(_letters(i) for i in range(start, start + 50)))
        tokenizer.encode("x" * (LONGEST_CACHED + 1))
        assert 0 < len(tokenizer._cache) <= CACHED_WORDS
        assert "x" * (LONGEST_CACHED + 1) + "</w>" not in tokenizer._cache
        assert tokenizer.encode("cat a0 xyz") == first


class TestFolder:
    def test_round_trip(self, tmp_path: Path) -> None:
        merges = CLIP.merges[:254]
        tokenizer = Tokenizer(number_tokens(merges), merges, max_length=32)
        tokenizer.save(tmp_path / "new" / "tokenizer")
        read = Tokenizer.from_folder(tmp_path / "new" / "tokenizer", max_length=32)
        assert (read.vocab, read.merges) == (tokenizer.vocab, tokenizer.merges)
        assert read.vocab_size == 768
        assert read.encode("The cat's 🙂") == tokenizer.encode("The cat's 🙂")

    def test_save_replaces(self, tmp_path: Path) -> None:
        for count in (10, 20):
            Tokenizer(number_tokens(CLIP.merges[:count]), CLIP.merges[:count]).save(tmp_path)
        assert len(Tokenizer.from_folder(tmp_path).merges) == 20
        assert len(list(tmp_path.iterdir())) == 4

    def test_a_merge_that_looks_like_a_comment(self, tmp_path: Path) -> None:
        merges = [("#", "#</w>"), ("#", "#")]
        Tokenizer(number_tokens(merges), merges).save(tmp_path)
        assert Tokenizer.from_folder(tmp_path).merges == merges


def _letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:05d}")


def test_added_phrases_are_tokens_of_their_own():
    plain = Tokenizer.clip()
    added = {"<cat-toy>": (49408,), "style": (49409, 49410), "my style": (49411,)}
    tokenizer = Tokenizer(plain.vocab, plain.merges, added=added)
    text = "a <Cat-toy>, my style or a Style of lifestyles"
    tokens = tokenizer.encode(text).tokens
    assert [text[t.start : t.end] for t in tokens if t.id >= 49408] == [
        *("<Cat-toy>", "my style", "Style", "Style"),
    ]
    assert [t.id for t in tokens if t.id >= 49408] == [49408, 49411, 49409, 49410]
    rest = plain.encode("a , or a of lifestyles").tokens
    assert [t.id for t in tokens if t.id < 49408] == [t.id for t in rest]
    assert "<cat-toy>" in tokenizer.decode(tokenizer.encode(text).ids)
    assert tokenizer.vocab_size == 49412
    words = {word.text: len(word.tokens) for word in tokenizer.encode(text).words}
    assert words["Style"] == 2
