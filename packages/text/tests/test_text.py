"""Tokenizers: nothing is lost, BPE is that of Hugging Face, batches are theirs, files are read or refused."""

import json
import os
import pickle
import random
import re
import subprocess
import sys
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from etude.errors import UserError
from etude.text import BPE, Characters, Pretrained, Tokenizer, Unigram, WordPiece, Words, load
from etude.text.bpe import ALPHABET, LETTER
from etude.text.tokenizer import split

OURS = [BPE, WordPiece, Unigram, Words, Characters]
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "The dog's lazy; the fox isn't! 12 foxes, 345 dogs...",
    "  Two spaces,\n\na blank line and a tab\tor two.  ",
    "Der schnelle braune Fuchs: Größe, Straße, café, naïve.",
    "the fox, the dog and the other fox are here, there and everywhere",
]
HARD = [
    "",
    " ",
    "   ",
    "\n",
    " \n \t  x \r\n",
    "x ",
    " x",
    "a \u00a0b \u2003 c \x1c \x85d",
    "\0",
    "a\0b \0",
    "\ud800",
    "x \udfff\ud83d\ude00 y",
    "👩‍👩‍👧‍👦🏳️‍🌈 👍🏽",
    "中文没有空格。日本語も。",
    "e\u0301 n\u0303 \u0301 \u200d\ufeff",
    "<0x41><0xE4> <0x", "<pad><unk> <pad>[CLS]", "Ġx ▁x ##x # ##  ▁▁ Ġ", "It's we'll 'S ''s x'", "½ Ⅷ 一 ٣",
]  # fmt: skip


def trained(kind, **options):
    return kind.train(TEXTS * 3, 450, **options)


@pytest.fixture(scope="module", params=OURS, ids=lambda kind: kind.__name__)
def tokenizer(request):
    return trained(request.param, bos="<s>", eos="</s>")


def random_text(random):
    ranges = [
        (0, 0x80),
        (0, 0x80),
        (0x80, 0x500),
        (0x3000, 0x9FFF),
        (0xD7F0, 0xE010),
        (0x1F300, 0x1F900),
        (0, 0x110000),
    ]
    letters = "etaoin  \n\t'.,019<>xĠ▁#"
    return "".join(
        random.choice(letters) if random.random() < 0.7 else chr(random.randrange(*random.choice(ranges)))
        for _ in range(random.randrange(60))
    )


# -- nothing is lost


def test_pre_tokens_are_those_of_gpt_2_and_make_the_text():
    assert split("It's  a\n dog's 12 x!") == ["It", "'s", " ", " a", "\n", " dog", "'s", " 12", " x", "!"]
    draw = random.Random(0)
    for text in [*HARD, *(random_text(draw) for _ in range(2000))]:
        assert "".join(split(text)) == text
        assert [piece for word in split(text) for piece in split(word)] == split(text)


def test_pre_tokens_are_those_of_the_byte_level_pre_tokenizer():
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    draw = random.Random(1)
    ascii_texts = ["".join(draw.choices("ab'stverldm  019.!\n\t\r\v\f\x1c\x1f", k=20)) for _ in range(2000)]
    others = [  # no surrogates, which it does not take, and no code points that only newer versions of Unicode know
        "".join(letter for letter in random_text(draw) if unicodedata.category(letter) not in ("Cs", "Cn"))
        for _ in range(1000)
    ]
    for text in [*ascii_texts, *others]:
        assert split(text) == [text[start:end] for _, (start, end) in cut(text)]


def test_decode_gives_back_any_text(tokenizer):
    draw = random.Random(2)
    texts = [*TEXTS, *HARD, *(random_text(draw) for _ in range(1000))]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(tokenizer.encode(text)["input_ids"]) == text
        assert not tokenizer._special_ids & set(ids)
        if text:
            assert ids


def test_a_megabyte_without_a_space_is_encoded_in_seconds(tokenizer):
    text = "".join(random.Random(3).choices("thequickbrown", k=700_000)) + "中" * 100_000
    began = time.process_time()
    [ids] = tokenizer.encode_batch([text])
    assert time.process_time() - began < 20
    assert tokenizer.decode(ids) == text


def test_without_byte_fallback_the_unknown_becomes_unk():
    for kind in (Words, Characters):
        tokenizer = trained(kind, byte_fallback=False)
        ids = tokenizer.encode("the 中")["input_ids"]
        assert tokenizer.unk_id in ids and "<0x00>" not in tokenizer.vocab
        assert "中" not in tokenizer.decode(ids)
        assert "<unk>" in tokenizer.decode(ids, skip_special_tokens=False)
        with pytest.raises(UserError, match="byte_fallback=True or an unk"):
            trained(kind, byte_fallback=False, unk=None).encode("the 中")


def test_lowercase(tokenizer):
    lower = trained(type(tokenizer), lowercase=True)
    for text in [*TEXTS, "ÀÉ İSTANBUL ẞ"]:
        assert lower.decode(lower.encode(text)["input_ids"]) == text.lower()
        assert lower.encode_batch([text]) == lower.encode_batch([text.lower()])


def test_any_ids_decode(tokenizer):
    draw = random.Random(4)
    for _ in range(300):
        assert isinstance(tokenizer.decode(draw.choices(range(tokenizer.vocab_size), k=20)), str)
    broken = [tokenizer.id_of(token) for token in (["Ã", "A"] if tokenizer.kind == "bpe" else ["<0xC3>", "<0x41>"])]
    assert tokenizer.decode(broken) == "\ufffdA"
    assert tokenizer.decode(torch.tensor(broken)) == "\ufffdA"
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(UserError, match=f"id {wrong} is not in the vocabulary"):
            tokenizer.decode([0, wrong])


# -- one interface


def test_rows_of_ids_are_for_batch_decode(tokenizer):
    """One method for a text and one for many, as in tokenizers and tiktoken: rows of one id each are not one text."""
    ids = tokenizer("the fox")["input_ids"]
    for rows in (
        [ids, ids],
        torch.tensor([ids, ids]),
        torch.tensor([ids]).numpy(),
        torch.tensor(ids)[:, None],
        [torch.tensor([5])],
    ):
        with pytest.raises(UserError, match="not rows of ids: use batch_decode") as error:
            tokenizer.decode(rows)
        assert "\n" not in str(error.value)
        assert tokenizer.batch_decode(rows)[0] == tokenizer.decode(list(rows[0]))
    for one in (5, torch.tensor(5), "12", 1.5):
        with pytest.raises(UserError, match="is no list of ids"):
            tokenizer.decode(one)
    with pytest.raises(UserError, match=r"1\.5 is no id"):
        tokenizer.decode([1.5])
    with pytest.raises(UserError, match="is no list of ids"):
        tokenizer.batch_decode(ids)
    for same in (ids, tuple(ids), torch.tensor(ids), torch.tensor(ids).numpy(), iter(ids), list(torch.tensor(ids))):
        assert tokenizer.decode(same) == "the fox"


def test_special_tokens_come_first_and_are_optional(tokenizer):
    assert tokenizer.vocab[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    encoded = tokenizer.encode("the fox")
    ids = tokenizer.encode("the fox", add_special_tokens=False)["input_ids"]
    assert encoded["input_ids"] == [2, *ids, 3] and encoded["attention_mask"] == [1] * (len(ids) + 2)
    assert tokenizer.encode_batch(["the fox"], add_special_tokens=True) == [encoded["input_ids"]]
    assert tokenizer.decode(encoded["input_ids"]) == "the fox"
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=False) == "<s>the fox</s>"
    assert tokenizer.batch_decode([ids, [2]]) == ["the fox", ""]
    none = trained(type(tokenizer), pad=None, unk=None)
    assert (none.pad_id, none.unk_id, none.bos_id, none.eos_id) == (None, None, None, None)
    assert none.vocab_size == len(none.vocab) and not {"<pad>", "<unk>"} & set(none.vocab)
    assert none.decode(none.encode("<pad> x")["input_ids"]) == "<pad> x"
    with pytest.raises(UserError, match="no token 'nowhere'"):
        tokenizer.id_of("nowhere")
    assert tokenizer.vocab[tokenizer.id_of(tokenizer.vocab[-1])] == tokenizer.vocab[-1]


def test_a_batch_is_padded_and_cut(tokenizer):
    short, long = "the fox", TEXTS[1]
    rows = [tokenizer.encode(text)["input_ids"] for text in (short, long)]
    assert tokenizer([short, long])["input_ids"] == rows
    padded = tokenizer([short, long], padding=True)
    gap = len(rows[1]) - len(rows[0])
    assert padded["input_ids"] == [rows[0] + [0] * gap, rows[1]]
    assert padded["attention_mask"] == [[1] * len(rows[0]) + [0] * gap, [1] * len(rows[1])]
    assert padded.word_ids(0)[-gap:] == [None] * gap
    cut = tokenizer([short, long], padding="max_length", truncation=True, max_length=6, return_tensors="pt")
    assert cut["input_ids"].shape == (2, 6) and cut["input_ids"].dtype == torch.int64
    assert cut["input_ids"][1].tolist() == [*rows[1][:5], 3] and len(cut.word_ids(1)) == 6
    arrays = tokenizer(short, return_tensors="np")
    assert arrays["input_ids"].tolist() == [rows[0]] and arrays["attention_mask"].dtype == "int64"
    assert tokenizer([], padding=True, return_tensors="pt")["input_ids"].shape == (0, 0)
    assert tokenizer(short, truncation=True, max_length=2)["input_ids"] == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"truncation": True}, "needs max_length"),
        ({"padding": "max_length"}, "needs max_length"),
        ({"truncation": True, "max_length": 0}, "at least 1"),
        ({"truncation": True, "max_length": 1}, "no room for the 2 special"),
        ({"max_length": 5}, "does nothing alone"),
        ({"return_tensors": "pt"}, "give padding=True"),
        ({"return_tensors": "tf"}, "'pt', 'np' or None"),
        ({"padding": "left"}, "padding='left' is unknown"),
        ({"is_split_into_words": True, "texts": "a b"}, "list of words"),
    ],
)
def test_a_call_that_cannot_be_met_is_refused(tokenizer, arguments, match):
    with pytest.raises(UserError, match=match):
        tokenizer(**{"texts": ["a", "the fox jumps"], **arguments})


def test_padding_without_a_pad_token_is_refused(tokenizer):
    with pytest.raises(UserError, match="pad token"):
        trained(type(tokenizer), pad=None)(["a", "b c"], padding=True)


def test_labels_of_words_can_be_carried_to_pieces(tokenizer):
    words = ["The", "dog's", "", "Größe", "  ", "中", "x\ny", ""]
    for given in (words, ["", "a"], [" ", ""], ["\u200b"]):
        encoded = tokenizer(given, is_split_into_words=True)
        numbers = encoded.word_ids()
        assert numbers[0] is None and numbers[-1] is None and len(numbers) == len(encoded["input_ids"])
        assert numbers[1:-1] == sorted(numbers[1:-1]) and set(numbers[1:-1]) == set(range(len(given)))
    plain = tokenizer(["The fox jumps", "The"])
    split_up = tokenizer([["The", "fox", "jumps"], ["The"]], is_split_into_words=True)
    assert plain == split_up and plain.word_ids(0) == split_up.word_ids(0) and plain.word_ids(1)[1:-1][-1] == 0
    text = "It's the  dog"
    encoded = tokenizer(text)
    for number, piece in enumerate(split(text)):
        ids = [id for id, word in zip(encoded["input_ids"], encoded.word_ids(), strict=True) if word == number]
        assert tokenizer.decode(ids) == piece


def test_what_was_encoded_before_changes_nothing(tokenizer):
    fresh = type(tokenizer).from_state(tokenizer.state())
    texts = [*TEXTS, *HARD] * 2
    cold = [type(tokenizer).from_state(tokenizer.state()).encode_batch([text])[0] for text in texts[:10]]
    assert fresh.encode_batch(texts) == fresh.encode_batch(texts) == [fresh.encode_batch([text])[0] for text in texts]
    assert fresh.encode_batch(texts)[:10] == cold
    assert [fresh.encode(text, add_special_tokens=False)["input_ids"] for text in texts] == fresh.encode_batch(texts)


def test_a_full_memory_starts_anew(tokenizer, monkeypatch):
    monkeypatch.setattr("etude.text.tokenizer.CACHED", 3)
    other = type(tokenizer).from_state(tokenizer.state())
    for text in [*TEXTS, *TEXTS]:
        assert other.encode_batch([text]) == tokenizer.encode_batch([text])
        assert len(other._known) <= 3


# -- files


def test_save_and_load(tokenizer, tmp_path):
    file = tmp_path / "tokenizer.json"
    tokenizer.save(file)
    texts = [*TEXTS, *HARD]
    for again in (load(file), type(tokenizer).load(str(file)), Tokenizer.from_state(tokenizer.state())):
        assert type(again) is type(tokenizer) and again.vocab == tokenizer.vocab
        assert again.encode_batch(texts, True) == tokenizer.encode_batch(texts, True)
        assert again.state() == tokenizer.state()
    assert len(file.read_text(encoding="utf-8").splitlines()) > tokenizer.vocab_size  # for people to read
    assert [*tmp_path.iterdir()] == [file]
    again = pickle.loads(pickle.dumps(tokenizer))  # as workers of a DataLoader get it
    assert again.encode_batch(texts) == tokenizer.encode_batch(texts)
    other = Words if not isinstance(tokenizer, Words) else BPE
    with pytest.raises(UserError, match=f"not {other.__name__}"):
        other.load(file)


def test_the_state_is_plain_data(tokenizer):
    def check(value):
        assert type(value) in (str, int, float, bool, list, dict)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(tokenizer.state())
    torch.save(tokenizer.state(), "/dev/null")


def test_lowercase_and_options_are_saved(tokenizer, tmp_path):
    kind = type(tokenizer)
    trained(kind, lowercase=True, pad=None, eos="[E]").save(tmp_path / "t.json")
    again = load(tmp_path / "t.json")
    assert again.lowercase and again.pad_id is None and again.vocab[again.eos_id] == "[E]"
    assert again.decode(again.encode("THE FOX")["input_ids"]) == "the fox"


def broken_files(file):
    """Ways to spoil a saved tokenizer, and what the refusal says."""
    whole = json.loads(file.read_text(encoding="utf-8"))
    yield "{", "no JSON"
    yield "[1, 2]", "no tokenizer"
    yield '{"model": {}}', "no tokenizer"
    yield json.dumps({**whole, "version": 2}), "version 2"
    yield json.dumps({**whole, "type": "magic"}), "unknown type 'magic'"
    yield json.dumps({**whole, "type": ["bpe"]}), "no type"
    for key in whole.keys() - {"format", "version"}:
        less = {name: value for name, value in whole.items() if name != key}
        if key not in ("lowercase", "byte_fallback"):  # these have defaults
            yield json.dumps(less), str(file)
    yield json.dumps({**whole, "surplus": 1}), "surplus"
    yield json.dumps({**whole, "vocab": whole["vocab"] + whole["vocab"][-1:]}), "twice"
    yield json.dumps({**whole, "vocab": [1, 2]}), "cannot be read"
    yield json.dumps({**whole, "vocab": None}), "cannot be read"
    yield json.dumps({**whole, "vocab": whole["vocab"][1:]}), "cannot be read"
    yield json.dumps({**whole, "special": {"pad": "[PAD]"}}), "lacks the pad token"


def test_a_broken_file_is_refused_in_one_line(tokenizer, tmp_path):
    file = tmp_path / "t.json"
    tokenizer.save(file)
    for content, match in [*broken_files(file)]:
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=re.escape(match)) as refusal:
            load(file)
        assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no JSON"):
        load(file)
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="cannot write"):
        tokenizer.save(tmp_path / "no" / "folder" / "t.json")


# -- training


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_a_vocabulary_that_is_too_small_is_refused_with_the_least(kind):
    for size in (-1, 0, 5, 257):
        with pytest.raises(UserError, match="at least") as refusal:
            kind.train(TEXTS, size)
    least = int(re.search(r"at least (\d+)", str(refusal.value))[1])
    assert kind.train(TEXTS, least).vocab_size == least
    with pytest.raises(UserError, match="at least"):
        kind.train(TEXTS, least - 1)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_training_texts(kind):
    for texts in ([], [""], iter([])):
        with pytest.raises(UserError, match="no text"):
            kind.train(texts)
    with pytest.raises(UserError, match="list of texts"):
        kind.train("one text")
    assert kind.train(iter(TEXTS), 400).state() == kind.train(TEXTS, 400).state()
    assert kind.train(["x \ud800", "\udfff x y"], 300).state() == kind.train(["x", " x y"], 300).state()
    with pytest.raises(UserError, match="same name"):
        kind.train(TEXTS, 400, bos="<pad>")


def test_training_time_stays_proportional_without_spaces():
    text = "".join(random.Random(5).choices("thequickbrown", k=200_000))
    began = time.process_time()
    tokenizer = BPE.train([text], 2000)
    assert time.process_time() - began < 20
    assert tokenizer.vocab_size == 2000 and len(tokenizer.encode(text)["input_ids"]) < 100_000


def test_training_does_not_depend_on_the_hash_seed():
    code = (
        f"import json, etude.text as t; kinds = (t.BPE, t.Words, t.Characters); "
        f"print(json.dumps([kind.train({TEXTS!r}, 420).vocab for kind in kinds]))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(runs) == 1


def test_importing_text_imports_no_torch():
    code = "import etude.text, sys; etude.text.BPE; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_and_characters_are_the_most_frequent():
    texts = ["b a b a c", "b d e"]
    assert Words.train(texts, 262).vocab[258:] == [" a", "b", " b", " c"]  # twice; once, in code point order
    assert Characters.train(texts, 261).vocab[258:] == [" ", "b", "a"]
    words = Words.train(texts, 262)
    assert words.encode("b a z")["input_ids"] == [259, 258, 2 + 0x20, 2 + ord("z")]


def test_a_character_that_is_also_a_special_token_stays_a_character():
    tokenizer = Characters.train(["a_b_"], 300, pad="_")
    assert tokenizer.pad_id not in tokenizer.encode("a_b")["input_ids"]
    assert tokenizer.decode(tokenizer.encode("a_b")["input_ids"]) == "a_b"
    with pytest.raises(UserError, match="'the' twice"):
        BPE.train(TEXTS, 400, bos="the")


# -- BPE is that of Hugging Face


def hugging_face(texts, size, **options):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<unk>", *options.values()],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def assert_same(ours, theirs, texts):
    model = json.loads(theirs.to_str())["model"]
    assert ours.merges == [" ".join(merge) for merge in model["merges"]]
    assert ours.ids == model["vocab"]
    ids = [encoding.ids for encoding in theirs.encode_batch_fast(texts, add_special_tokens=False)]
    assert ours.encode_batch(texts) == ids
    assert [ours.encode(text)["input_ids"] for text in texts[:100]] == ids[:100]


@pytest.mark.parametrize("seed", range(30))
def test_bpe_is_that_of_hugging_face(seed):
    """Few letters give many ties, overlaps ("aaaa"), and pairs that come back after they were joined."""
    draw = random.Random(seed)
    letters = draw.choice(["ab", "abc ", "abcdé 'st", "xy中 \n1."])
    texts = ["".join(draw.choices(letters, k=draw.randrange(1, 60))) for _ in range(draw.randrange(1, 100))]
    size = draw.choice([258, 265, 300, 500])
    theirs = hugging_face(texts, size)
    assert_same(BPE.train(texts, size), theirs, [*texts, "a" * 99, "ab" * 512, *(TEXTS * 30)])


def joined_naively(tokenizer, word):
    """Looks for the best pair anew each time."""
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(tokenizer.merges)}
    tokens = [LETTER[byte] for byte in word.encode("utf-8", "surrogatepass")]
    while known := [(ranks[pair], at) for at, pair in enumerate(pairwise(tokens)) if pair in ranks]:
        _, at = min(known)
        tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
    return tuple(tokenizer.ids[token] for token in tokens)


def test_short_and_long_words_are_joined_best_pair_first():
    draw = random.Random(6)
    tokenizer = BPE.train(TEXTS, 400)
    words = ["".join(draw.choices("the quickbrown", k=draw.randrange(1, 512))) for _ in range(300)]
    for word in [*words, "\ud800x", "é" * 50, "a" * 512]:
        assert tokenizer.encode_word(word) == joined_naively(tokenizer, word)


def test_merges_of_others_are_taken_or_refused():
    vocab = ["<pad>", "<unk>", *ALPHABET, "ab", "bc", "abc"]
    both_ways = BPE(vocab, ["b c", "a b", "ab c", "a bc"])
    assert [both_ways.vocab[id] for id in both_ways.encode("abc")["input_ids"]] == ["abc"]
    for merges in (["a d"], ["ab"], ["a b c"], [["a", "b"]], "a b", ["<pad> a"]):
        with pytest.raises(UserError, match="merge"):
            BPE(vocab, merges)
    with pytest.raises(UserError, match="letters of the byte alphabet"):
        BPE(vocab[:100], [])
    assert len(BPE(vocab, []).encode("abc")["input_ids"]) == 3


def imdb(part):
    folder = Path(os.environ["ETUDE_DATA"]) / "imdb" / part
    lines = [line for name in ("positive", "negative") for line in (folder / name).read_text("utf-8").splitlines()]
    return [line[1:-1].replace('""', '"') if line[:1] == line[-1:] == '"' else line for line in lines]


@pytest.mark.real_data
def test_bpe_is_that_of_hugging_face_on_imdb():
    texts = imdb("train")
    assert len(texts) > 9000
    ours, theirs = BPE.train(texts, 30_000), hugging_face(texts, 30_000)
    assert_same(ours, theirs, [*texts[::3], *imdb("test")[::3]])
    assert ours.batch_decode(ours.encode_batch(texts[:500])) == texts[:500]


# -- transformers


def as_transformers(tokenizer, **names):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


CALLS = [
    {},
    {"padding": True},
    {"padding": "longest", "truncation": True, "max_length": 7},
    {"padding": "max_length", "max_length": 40, "truncation": True},
    {"padding": True, "add_special_tokens": False},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_calls_give_what_transformers_gives(call):
    from tokenizers import processors

    options = {"bos": "<s>", "eos": "</s>"}
    theirs, ours = hugging_face(TEXTS, 400, **options), BPE.train(TEXTS, 400, **options)
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    theirs = as_transformers(theirs, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    a, b = ours(TEXTS, **call), theirs(TEXTS, **call, return_token_type_ids=False)
    assert a == dict(b)
    assert [a.word_ids(i) for i in range(len(TEXTS))] == [b.word_ids(i) for i in range(len(TEXTS))]
    assert ours(TEXTS[0], **call) == dict(theirs(TEXTS[0], **call, return_token_type_ids=False))


@pytest.fixture(scope="module", params=["bert", "unigram"])
def folder(request, tmp_path_factory):
    """A small tokenizer as the hub has them, in a folder."""
    import tokenizers as t

    if request.param == "bert":
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokenizer = t.Tokenizer(t.models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = t.normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = t.pre_tokenizers.BertPreTokenizer()
        trainer = t.trainers.WordPieceTrainer(vocab_size=120, special_tokens=[*names.values()], show_progress=False)
        template = "[CLS] $A [SEP]"
    else:
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        tokenizer = t.Tokenizer(t.models.Unigram())
        tokenizer.pre_tokenizer = t.pre_tokenizers.Metaspace()
        trainer = t.trainers.UnigramTrainer(
            vocab_size=100, special_tokens=[*names.values()], unk_token="<unk>", show_progress=False
        )
        template = "<s> $A </s>"
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    pair = [*names.values()][2:]
    tokenizer.post_processor = t.processors.TemplateProcessing(
        single=template, special_tokens=[(token, tokenizer.token_to_id(token)) for token in pair]
    )
    path = tmp_path_factory.mktemp(request.param)
    as_transformers(tokenizer, **names).save_pretrained(path)
    return path


def test_pretrained_is_the_tokenizer_of_transformers(folder):
    from transformers import AutoTokenizer

    ours, theirs = Pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for call in CALLS:
        a, b = ours(TEXTS, **call), theirs(TEXTS, **call, return_token_type_ids=False)
        assert a == dict(b)
        assert [a.word_ids(i) for i in range(len(TEXTS))] == [b.word_ids(i) for i in range(len(TEXTS))]
    assert ours.encode_batch(TEXTS) == theirs(TEXTS, add_special_tokens=False)["input_ids"]
    assert ours(TEXTS, padding=True, return_tensors="pt")["input_ids"].shape[0] == len(TEXTS)
    assert ours.encode(TEXTS[0])["input_ids"] == theirs(TEXTS[0])["input_ids"]
    assert ours.decode(ours.encode(TEXTS[0])["input_ids"]) == theirs.decode(theirs(TEXTS[0])["input_ids"], True)
    assert ours.vocab_size == len(theirs) and ours.pad_id == theirs.pad_token_id
    assert [ours.id_of(token) for token in ours.vocab] == list(range(ours.vocab_size))
    frame = ours.encode("fox")["input_ids"]
    assert (frame[0], frame[-1]) == (ours.bos_id, ours.eos_id)
    for text in HARD:
        ours.encode(text)
    for call in ({"truncation": True}, {"truncation": True, "max_length": 1}, {"return_tensors": "pt"}):
        with pytest.raises(UserError):
            ours(TEXTS, **call)
    with pytest.raises(UserError, match="not in the vocabulary"):
        ours.decode([ours.vocab_size])


def test_pretrained_loses_no_word(folder):
    words = ["The", "", "dog's", " ", "\u200b", "\x00", "中", "fox"]
    encoded = Pretrained(folder)([words, ["fox"]], is_split_into_words=True)
    numbers = encoded.word_ids(0)
    assert set(numbers[1:-1]) == set(range(len(words))) and numbers[1:-1] == sorted(numbers[1:-1])
    assert encoded.word_ids(1)[1:-1] == [0] * (len(encoded["input_ids"][1]) - 2)


def test_pretrained_is_saved_with_its_files(folder, tmp_path):
    ours = Pretrained(folder)
    ours.save(tmp_path / "t.json")
    for again in (load(tmp_path / "t.json"), Pretrained.load(tmp_path / "t.json"), Tokenizer.from_state(ours.state())):
        assert again(TEXTS, padding=True) == ours(TEXTS, padding=True) and again.vocab == ours.vocab
    whole = json.loads((tmp_path / "t.json").read_text())
    for spoilt in ({**whole, "files": {}}, {**whole, "files": None}, {**whole, "files": {"tokenizer.json": "{"}}):
        (tmp_path / "t.json").write_text(json.dumps(spoilt))
        with pytest.raises(UserError, match="cannot be read") as refusal:
            load(tmp_path / "t.json")
        assert "\n" not in str(refusal.value)


def test_a_name_of_the_hub_is_found_among_the_data_but_a_path_is_not(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "some-pieces").symlink_to(folder)
    assert Pretrained("somebody/some-pieces")(TEXTS) == Pretrained(folder)(TEXTS)
    for path in (tmp_path / "some-pieces", "./some-pieces"):
        with pytest.raises(UserError, match="no tokenizer"):
            Pretrained(path)


def test_pretrained_refuses_in_one_line(tmp_path, monkeypatch):
    for name in (tmp_path, tmp_path / "nowhere" / "deeper"):
        with pytest.raises(UserError, match="no tokenizer") as refusal:
            Pretrained(name)
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="not trained"):
        Pretrained.train(TEXTS)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="uv sync --all-packages, or pip install transformers$"):
        Pretrained(tmp_path)
