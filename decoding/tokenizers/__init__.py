"""Text to ids and back: a vocabulary, Hugging Face tokenizers, SentencePiece, or an object of the caller's."""

from decoding.tokenizers.read import PlainVocabulary, fitted, make_tokenizer, read_tokenizer, tokenizer_file
from decoding.tokenizers.special_ids import SpecialIds, checked_special_ids, special_ids_of
from decoding.tokenizers.stored import METADATA_KEYS, stored_tokenizer, tokenizer_metadata
from decoding.tokenizers.text_stream import TextStream, token_texts
from decoding.tokenizers.token_bytes import TokenBytes, token_bytes
from decoding.tokenizers.tokenizer import Tokenizer, Vocabulary, token_strings

__all__ = [
    "METADATA_KEYS",
    "PlainVocabulary",
    "SpecialIds",
    "TextStream",
    "TokenBytes",
    "Tokenizer",
    "Vocabulary",
    "checked_special_ids",
    "fitted",
    "make_tokenizer",
    "read_tokenizer",
    "special_ids_of",
    "stored_tokenizer",
    "token_bytes",
    "token_strings",
    "token_texts",
    "tokenizer_file",
    "tokenizer_metadata",
]
