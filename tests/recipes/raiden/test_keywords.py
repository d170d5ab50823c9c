"""Keywords are found as a reader would find them, in four languages."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.recipes.raiden.keywords import contains, normalised, read_keywords, shared_terms, slots_filled


@pytest.mark.parametrize(
    ("text", "keyword", "language", "found"),
    [
        ("我叫 小 明。", "小明", "zh", True),
        ("我是ＡＢＣ公司的", "abc公司", "zh", True),
        ("我今年117岁", "17岁", "zh", False),
        ("我今年17岁", "17岁", "zh", True),
        ("「星の 図書館」で働いています", "星の図書館", "ja", True),
        ("저는 서울에서 살아요", "서울", "ko", True),
        ("I live in Newcastle.", "castle", "en", False),
        ("I live in the CASTLE!", "castle", "en", True),
        ("a well-known baker", "well known", "en", True),
        ("room 42b", "42", "en", False),
        ("it weighs 3.5 kg", "3.5", "en", True),
        ("it weighs 3.5 kg", "5", "en", True),
        ("anything", "", "en", False),
        ("anything!", "!?", "en", False),
        ("naïve café", "CAFÉ", "en", True),
    ],
)
def test_a_keyword_is_found_where_a_reader_finds_it(text: str, keyword: str, language: str, found: bool) -> None:
    assert contains(text, keyword, language) is found


def test_texts_are_compared_without_case_width_punctuation_and_where_it_means_nothing_space() -> None:
    assert normalised("Ｈｅｌｌｏ,  World!", "en") == "hello world"
    assert normalised("你 好，世 界！", "zh") == "你好世界"
    assert normalised("1,000.5%", "en") == "1,000.5"


def test_a_slot_is_filled_by_any_of_its_equivalents() -> None:
    assert slots_filled("I bake bread", [["baker", "bake"], "cake"], "en") == [True, False]
    assert slots_filled("I bake bread", ["", ["…"]], "en") == []


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ('{"keywords": ["茶", " ", 3]}', ["茶"]),
        ('```json\n{"keywords": ["a", "b"]}\n``` done', ["a", "b"]),
        ('{"other": 1} then {"keywords": ["a"]}', ["a"]),
        ('{"keywords": "a"}', []),
        ("{broken", []),
        ("", []),
    ],
)
def test_keywords_are_read_out_of_a_reply(reply: str, words: list[str]) -> None:
    assert read_keywords(reply) == words


def test_shared_terms_are_the_longest_pieces_that_are_not_given_away() -> None:
    assert shared_terms("我最喜欢桂花茶。", "银狐最喜欢桂花茶", "zh") == ["最喜欢桂花茶"]
    assert shared_terms("我最喜欢桂花茶。", "银狐最喜欢桂花茶", "zh", without="你最喜欢什么？") == ["桂花茶"]
    assert shared_terms("I collect lost buttons.", "He collects lost buttons", "en") == ["lost buttons"]
    assert shared_terms("저는 메밀묵을 좋아해요", "메밀묵을 먹는다", "ko") == ["메밀묵"]
    assert shared_terms("a b", "c d", "en") == []


@pytest.mark.parametrize(
    ("language", "text", "source", "question", "terms"),
    [
        ("zh", "我带着一把蓝色雨伞。", "他总是带着一把蓝色雨伞。", "", ["带着一把蓝色雨伞"]),
        ("zh", "我是小明。", "小明说：我是学生。", "", ["小明"]),
        ("zh", "我的猫，叫雪球。", "她的猫叫雪球。", "", ["叫雪球"]),
        ("ja", "私はバイオリンを弾きます。", "彼女はバイオリンが得意。", "", ["バイオリン"]),
        ("ja", "私は札幌で生まれました。", "彼女は札幌で育った。", "", ["札幌"]),
        ("ja", "星の図書館で、よもぎ団子を食べます", "星の図書館で、よもぎ団子を売る", "", ["よもぎ団子", "星の図書館"]),
        ("ja", "ひまわりが好きです", "ひまわりが咲く", "", ["ひまわり"]),
        ("ja", "それは私のです", "これは私のです", "", []),
        ("ko", "저는 비빔밥을 가장 좋아해요.", "그녀는 비빔밥을 가장 좋아한다.", "가장 좋아하는 음식은?", ["비빔밥"]),
        ("ko", "저는 파란 우산을 샀어요.", "저는 파란 우산을 쓴다.", "", ["파란 우산"]),
        ("ko", "저는 고양이를 키워요", "고양이와 산다", "", ["고양이"]),
        ("ko", "저는 서울에서 살아요!", "서울에 산다", "", ["서울"]),
        ("ko", "저는 가장 그래요", "저는 가장 그렇다", "", []),
        ("en", "I am it", "I am it", "", []),
        ("en", "I live in the old lighthouse of Brest.", "She lives in the old lighthouse of Brest", "", ["old lighthouse of Brest"]),
        ("en", "My owl, Ada, likes rain", "Her owl is Ada; it likes rain", "", ["likes rain"]),
    ],
)  # fmt: skip
def test_keywords_made_without_the_server_are_no_function_words(
    language: str, text: str, source: str, question: str, terms: list[str]
) -> None:
    """Finding F17: punctuation, particles, first person and adverbs became what the reward pays for."""
    found = shared_terms(text, source, language, without=question)
    assert found == terms
    assert all(contains(text, term, language) and contains(source, term, language) for term in found)
