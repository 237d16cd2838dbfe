"""A tiny random model, and a tokenizer that knows the words of an episode: a folder that `--model` takes."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.decisions import answer_of, make
from training.wording import KEEP, LETTERS, WORDS

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Digits one by one, then bytes, as SmolLM2's; letters of rows and verbs are one token each."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bare.decoder = decoders.ByteLevel()
    texts = ["".join(answer_of(row)[0]) for row in make(10, 5)]
    texts += [f" {letter} {letter}" for letter in LETTERS for _ in range(50)]
    texts += [f" {word} {word}" for word in (*WORDS.values(), KEEP) for _ in range(50)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHAT
    return made


def save(folder: Path) -> Path:
    """Writes the model and gives its folder."""
    words = tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=1, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        )
    ).to(torch.bfloat16).save_pretrained(folder)  # fmt: skip
    words.save_pretrained(folder)
    return folder
