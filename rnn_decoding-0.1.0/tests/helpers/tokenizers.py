"""Real tokenizers of every kind, trained on a small text of many scripts."""

from __future__ import annotations

import functools
import io

# Article 1 of the Universal Declaration of Human Rights, and what tokenizers find hard.
TEXT = """All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience.
Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience.
Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью.
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
  two leading spaces, a\ttab, "quotes", don't, I'm, it's ; 3.14 , ( brackets ) ! ? … — ﬁ ½ é é
👨‍👩‍👧‍👦 👩🏽‍🚀 🇩🇪🇯🇵 ❤️‍🔥 🏳️‍🌈 😀😃😄 a😀b 你😀好 \ufffd end
"""
BYTES = [f"<0x{i:02X}>" for i in range(256)]
HUGGING_FACE = [
    "byte_level",
    "metaspace",
    "metaspace_first",
    "word_piece",
    "bpe_suffix",
    "words",
    "llama",
    "gemma",
    "ctc",
]
SENTENCE_PIECE = ["unigram", "unigram_bytes", "bpe", "bpe_bytes", "char"]


@functools.cache
def hugging_face(kind):
    """A trained `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<s>", "</s>", "<pad>", "<unk>"]
    to_underline = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    model, trainer, before, decoder, normalizer = {
        "byte_level": lambda: (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
            pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), None,
        ),
        "metaspace": lambda: (
            models.Unigram(), trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>"),
            pre_tokenizers.Metaspace(), decoders.Metaspace(), None,
        ),
        "metaspace_first": lambda: (
            models.Unigram(), trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>"),
            pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace(prepend_scheme="first"), None,
        ),
        "word_piece": lambda: (
            models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(vocab_size=400, special_tokens=special),
            pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(), None,
        ),
        "bpe_suffix": lambda: (
            models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
            trainers.BpeTrainer(vocab_size=400, special_tokens=special, end_of_word_suffix="</w>"),
            pre_tokenizers.Whitespace(), decoders.BPEDecoder(), None,
        ),
        "words": lambda: (
            models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(special_tokens=special),
            pre_tokenizers.Whitespace(), None, None,
        ),
        "llama": lambda: (
            models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
            trainers.BpeTrainer(vocab_size=560, special_tokens=special + BYTES, limit_alphabet=80),
            None, decoders.Sequence([*fallback, decoders.Strip(" ", 1, 0)]), to_underline,
        ),
        "gemma": lambda: (
            models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
            trainers.BpeTrainer(vocab_size=560, special_tokens=special + BYTES, limit_alphabet=80),
            None, decoders.Sequence(fallback), normalizers.Replace(" ", "▁"),
        ),
        "ctc": lambda: (
            models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(special_tokens=["<pad>", "|", "<unk>"]),
            pre_tokenizers.Whitespace(), decoders.CTC(), None,
        ),
    }[kind]()  # fmt: skip
    tokenizer = Tokenizer(model)
    if before is not None:
        tokenizer.pre_tokenizer = before
    if decoder is not None:
        tokenizer.decoder = decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return tokenizer


@functools.cache
def sentence_piece(kind):
    """A trained `SentencePieceProcessor`."""
    import sentencepiece

    name, _, fallback = kind.partition("_")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type=name,
        vocab_size=520 if fallback else 400,
        hard_vocab_limit=False,
        byte_fallback=bool(fallback),
        character_coverage=0.985 if fallback else 1.0,
        user_defined_symbols=["<sep>"],
        control_symbols=["<ctrl>"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@functools.cache
def trained(kind):
    """The trained tokenizer of a kind, as its package has it."""
    return hugging_face(kind) if kind in HUGGING_FACE else sentence_piece(kind)
